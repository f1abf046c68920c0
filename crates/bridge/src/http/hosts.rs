//! The accepted host names. Without this check a page of another site, whose name resolves to the bridge's address (DNS
//! rebinding), could read the bridge's responses.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use neurobridge_core::foreign_text;
use tracing::warn;

use crate::http_connections::{Connections, Refusal};

/// The length to which an unknown name is cut in the log.
const MAX_SHOWN_CHARS: usize = 64;

/// The accepted names, in addition to `localhost` and all IP addresses.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    names: Arc<[String]>,
    connections: Arc<Connections>,
}

impl Hosts {
    pub(super) fn new(names: &[String], connections: Arc<Connections>) -> Self {
        Self {
            names: names.iter().map(|name| normal(name)).collect(),
            connections,
        }
    }

    /// Returns whether a host is accepted. An IP address always is: rebinding needs a name, and with port forwarding the bridge
    /// does not know the address that clients use.
    fn allows(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        let host = normal(authority.host());
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        address.unwrap_or(&host).parse::<IpAddr>().is_ok()
            || host == "localhost"
            || self.names.contains(&host)
    }

    /// Returns the first unknown host of a request. A request without any host does not come from a browser and is accepted.
    fn foreign(&self, target: Option<&Authority>, headers: &HeaderMap) -> Option<String> {
        let named = headers.get_all(header::HOST).iter();
        let named = named.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        target
            .map(|authority| authority.as_str().to_owned())
            .into_iter()
            .chain(named)
            .find(|authority| !self.allows(authority))
    }
}

fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Rejects requests for unknown hosts.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let Some(host) = hosts.foreign(request.uri().authority(), request.headers()) else {
        return next.run(request).await;
    };
    hosts.connections.refuse(Refusal::UnknownHost);
    let shown = foreign_text::clean_to(&host, MAX_SHOWN_CHARS);
    warn!(
        host = shown,
        "HTTP request refused: unknown host; add it to http.hosts to accept it"
    );
    let sentence = format!(
        "unknown host \"{shown}\"; expected an IP address, localhost, or a name in http.hosts of the bridge's configuration\n"
    );
    (StatusCode::MISDIRECTED_REQUEST, sentence).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> Hosts {
        Hosts::new(
            &["Bridge.example.com".to_owned()],
            Arc::new(Connections::default()),
        )
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_accepted() {
        for host in [
            "127.0.0.1:9797",
            "10.1.2.3",
            "[::1]:9797",
            "[fd00::1]",
            "localhost",
            "LOCALHOST:1",
            "localhost.:80",
            "bridge.example.com",
            "bridge.EXAMPLE.com.:9797",
        ] {
            assert!(hosts().allows(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com:9797",
            "bridge.example.com@example.com",
            "xbridge.example.com",
            "::1:x",
            "a b",
        ] {
            assert!(!hosts().allows(host), "{host}");
        }
    }

    #[test]
    fn each_host_name_of_a_request_is_checked() {
        let mut headers = HeaderMap::new();
        assert_eq!(hosts().foreign(None, &headers), None);
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(hosts().foreign(None, &headers), None);
        let target: Authority = "example.com:80".parse().unwrap();
        assert_eq!(
            hosts().foreign(Some(&target), &headers).as_deref(),
            Some("example.com:80")
        );
        headers.append(header::HOST, "example.org".parse().unwrap());
        assert_eq!(hosts().foreign(None, &headers).as_deref(), Some("example.org"));
    }

    proptest! {
        #[test]
        fn host_name_is_accepted_only_if_local_or_configured(name in "[a-z0-9.-]{1,20}", port in "(:[0-9]{1,5})?") {
            let is_known = name.parse::<IpAddr>().is_ok()
                || ["localhost", "bridge.example.com"].contains(&name.strip_suffix('.').unwrap_or(&name));
            prop_assert_eq!(hosts().allows(&format!("{name}{port}")), is_known);
        }
    }
}
