//! The checks of the configuration that need no connection.

use std::time::Duration;

use async_nats::ServerAddr;
use neurobridge_core::{sink_config::check_dead_letter, units::format_duration};

use crate::{
    config::{AuthConfig, Mode, NatsConfig, Order, StreamConfig},
    subject,
};

/// The client drops acknowledgements if more than 65,536 are queued.
const MAX_IN_FLIGHT: u32 = 65_535;
/// Longer than the garbage collection of a server may pause it.
const MIN_ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// The smallest value that nats-server accepts.
const MIN_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

impl NatsConfig {
    /// Returns the errors of the configuration without connecting: the key below this sink's table and a text with the found
    /// and the expected value. Reads no file.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        let mut error = |key: &str, message: String| errors.push((key.to_owned(), message));
        if self.servers.is_empty() {
            error(
                "servers",
                "found none, expected one or more addresses such as \"nats://localhost:4222\"".into(),
            );
        }
        for (index, server) in self.servers.iter().enumerate() {
            if let Some(message) = address_error(server) {
                error(&format!("servers.{index}"), message);
            }
        }
        self.check_subject(&mut error);
        match (self.mode, &self.stream) {
            (Mode::Jetstream, None) => error(
                "stream",
                "found none, expected stream = { name = … }, or mode = \"core\" to store no events".into(),
            ),
            (Mode::Jetstream, Some(stream)) => self.check_stream(stream, &mut error),
            (Mode::Core, Some(_)) => error(
                "stream",
                "found a stream with mode = \"core\", expected none: core mode stores no events".into(),
            ),
            (Mode::Core, None) => {}
        }
        if self.mode == Mode::Core && self.order == Some(Order::Strict) {
            error(
                "order",
                "found \"strict\" with mode = \"core\", expected mode = \"jetstream\": only a stream has an order".into(),
            );
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.max_in_flight) {
            error(
                "max_in_flight",
                format!("found {}, expected 1 to {MAX_IN_FLIGHT}", self.max_in_flight),
            );
        }
        if self.ack_timeout < MIN_ACK_TIMEOUT {
            error(
                "ack_timeout",
                format!(
                    "found \"{}\", expected at least \"{}\"",
                    format_duration(self.ack_timeout),
                    format_duration(MIN_ACK_TIMEOUT)
                ),
            );
        }
        self.check_dead_letter(&mut error);
        if let Some(auth) = &self.auth {
            check_auth(auth, &mut error);
        }
        if let Some(tls) = &self.tls
            && tls.cert_file.is_some() != tls.key_file.is_some()
        {
            error(
                "tls",
                "found one of cert_file and key_file, expected both or none".into(),
            );
        }
        errors
    }

    fn check_subject(&self, error: &mut impl FnMut(&str, String)) {
        // Subjects are visible to all users of the server, and there would be a subject for each person.
        for person in ["pid", "initial_pid"] {
            if self.subject.uses(person) {
                error(
                    "subject",
                    format!(
                        "found \"{}\", expected a subject without {{{person}}}: all users of the server can see subjects",
                        self.subject
                    ),
                );
            }
        }
        // A token with a field becomes a wildcard in the pattern; a wildcard in the literal text is an error.
        let literal = self.subject.to_string();
        let message = if literal.contains(['*', '>']) || literal.starts_with('$') {
            subject::error_of(&literal, false)
        } else {
            subject::error_of(&subject::pattern(&self.subject), true)
        };
        if let Some(message) = message {
            error("subject", message);
        }
    }

    fn check_stream(&self, stream: &StreamConfig, error: &mut impl FnMut(&str, String)) {
        let is_name_character = |c: char| !c.is_whitespace() && !c.is_control() && !".*>/\\".contains(c);
        if stream.name.is_empty() || !stream.name.chars().all(is_name_character) {
            error(
                "stream.name",
                format!(
                    "found \"{}\", expected a name without white space, dots, slashes and wildcards",
                    stream.name
                ),
            );
        }
        if !stream.create {
            for (key, is_set) in [
                ("max_age", stream.max_age.is_some()),
                ("replicas", stream.replicas.is_some()),
                ("duplicate_window", stream.duplicate_window.is_some()),
                ("subjects", stream.subjects.is_some()),
                ("storage", stream.storage.is_some()),
            ] {
                if is_set {
                    error(
                        &format!("stream.{key}"),
                        format!("found {key} without create, expected create = true in the same table"),
                    );
                }
            }
            return;
        }
        match stream.max_age {
            None => error(
                "stream.max_age",
                "found none, expected a duration such as \"7d\": create = true requires this limit, so that faces \
                 are not stored for ever by accident"
                    .into(),
            ),
            Some(age) if age < MIN_DUPLICATE_WINDOW => error(
                "stream.max_age",
                format!(
                    "found \"{}\", expected at least \"{}\"",
                    format_duration(age),
                    format_duration(MIN_DUPLICATE_WINDOW)
                ),
            ),
            Some(_) => {}
        }
        if !stream
            .replicas
            .is_some_and(|replicas| (1..=5).contains(&replicas))
        {
            let found = stream
                .replicas
                .map_or("none".to_owned(), |found| found.to_string());
            error(
                "stream.replicas",
                format!("found {found}, expected 1 to 5: create = true needs the number of replicas"),
            );
        }
        if let Some(window) = stream.duplicate_window
            && (window < MIN_DUPLICATE_WINDOW || stream.max_age.is_some_and(|age| window > age))
        {
            error(
                "stream.duplicate_window",
                format!(
                    "found \"{}\", expected \"{}\" to max_age",
                    format_duration(window),
                    format_duration(MIN_DUPLICATE_WINDOW)
                ),
            );
        }
        if let Some(subjects) = &stream.subjects {
            self.check_subjects(subjects, error);
        }
    }

    fn check_subjects(&self, subjects: &[String], error: &mut impl FnMut(&str, String)) {
        for subject in subjects {
            if let Some(message) = subject::error_of(subject, true) {
                error("stream.subjects", message);
            }
        }
        let pattern = subject::pattern(&self.subject);
        if !subjects.iter().any(|subject| subject::covers(subject, &pattern)) {
            error(
                "stream.subjects",
                format!(
                    "found no subject that covers all of \"{pattern}\", expected such a subject: this pattern covers \
                     the sink's subjects"
                ),
            );
        }
    }

    fn check_dead_letter(&self, error: &mut impl FnMut(&str, String)) {
        let Some(place) = &self.dead_letter else { return };
        let valid = check_dead_letter("subject", place.subject.is_some(), place.path.is_some());
        match (valid, &place.subject) {
            (Err(message), _) => error("dead_letter", message),
            (Ok(()), Some(subject)) => {
                if let Some(message) = subject::error_of(subject, false) {
                    error("dead_letter.subject", message);
                } else if subject::covers(&subject::pattern(&self.subject), subject) {
                    error(
                        "dead_letter.subject",
                        format!("found \"{subject}\", expected another subject than those of the events"),
                    );
                }
            }
            (Ok(()), None) => {}
        }
    }
}

/// Returns the error of a server's address; `None` for a valid one.
fn address_error(server: &str) -> Option<String> {
    const EXAMPLE: &str = "expected an address such as \"nats://localhost:4222\"";
    // The parts of a valid URL are shown in logs and in /status. An invalid one may contain a password and is not shown.
    if server.is_empty() {
        return Some(format!("found an empty text, {EXAMPLE}"));
    }
    if server.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(format!(
            "found white space or a control character in an address, {EXAMPLE}"
        ));
    }
    if server.contains(',') {
        return Some("found a comma in an address, expected each address as an entry of its own".into());
    }
    let (scheme, rest) = match server.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, server),
    };
    let address: Result<ServerAddr, _> = server.parse();
    if let Ok(address) = &address
        && (address.username().is_some() || address.password().is_some())
    {
        return Some(
            "found a URL with a user or password in it, expected auth = { user = …, password_file = … }"
                .into(),
        );
    }
    if let Some(scheme) = scheme
        && !matches!(scheme.as_str(), "nats" | "tls")
    {
        // Shown only if it looks like a scheme: otherwise it may be a part of a password.
        let is_scheme = scheme.len() <= 10 && scheme.chars().all(|c| c.is_ascii_alphabetic());
        let found = if is_scheme {
            scheme + "://"
        } else {
            "an unknown scheme".into()
        };
        return Some(format!("found {found}, expected nats:// or tls://"));
    }
    let address = match address {
        Ok(address) => address,
        // The parser's errors ("invalid port number") contain no part of the text.
        Err(error) => {
            let detail = error.to_string();
            let detail = detail.rsplit(": ").next().unwrap_or_default();
            return Some(format!("found an invalid address ({detail}), {EXAMPLE}"));
        }
    };
    if address.host().is_empty() {
        return Some(format!("found a URL without a host, {EXAMPLE}"));
    }
    let is_host_character = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if !address.host().chars().all(is_host_character) {
        return Some(format!("found a host name with an invalid character, {EXAMPLE}"));
    }
    if address.port() == 0 {
        return Some(format!("found port 0, {EXAMPLE}"));
    }
    if rest.find(['/', '?', '#']).is_some_and(|at| &rest[at..] != "/") {
        return Some(format!(
            "found a path, a query or a fragment in an address, {EXAMPLE}"
        ));
    }
    None
}

fn check_auth(auth: &AuthConfig, error: &mut impl FnMut(&str, String)) {
    for (key, value, file) in [
        ("password", &auth.password, &auth.password_file),
        ("token", &auth.token, &auth.token_file),
        ("nkey", &auth.nkey, &auth.nkey_file),
    ] {
        if value.is_some() && file.is_some() {
            error(
                &format!("auth.{key}"),
                format!("found together with {key}_file, expected one of them"),
            );
        }
    }
    let has_password = auth.password.is_some() || auth.password_file.is_some();
    if auth.user.is_some() != has_password {
        error(
            "auth.user",
            "found one of user and password, expected both or none".into(),
        );
    }
    let ways = [
        auth.user.is_some() || has_password,
        auth.token.is_some() || auth.token_file.is_some(),
        auth.nkey.is_some() || auth.nkey_file.is_some(),
        auth.credentials_file.is_some(),
    ];
    let count = ways.iter().filter(|way| **way).count();
    if count != 1 {
        error(
            "auth",
            format!(
                "found {count} kinds of credentials, expected one of user and password, token, nkey, credentials_file"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(toml: serde_json::Value) -> String {
        let config: NatsConfig = serde_json::from_value(toml).unwrap();
        let lines: Vec<_> = config
            .check()
            .into_iter()
            .map(|(key, message)| format!("{key}: {message}"))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn defaults_are_as_documented() {
        assert_eq!(NatsConfig::new("nats://localhost:4222", "NEUROIO").check(), []);
        let found = errors(serde_json::json!({
            "servers": ["localhost", "tls://nats.example.com:4222"],
            "stream": { "name": "NEUROIO", "create": true, "max_age": "7d", "replicas": 3, "subjects": ["neuroio.>"] },
            "dead_letter": { "subject": "dead.letters" },
            "auth": { "user": "u", "password_file": "/run/secrets/p" },
        }));
        assert_eq!(found, "");
        assert_eq!(
            errors(serde_json::json!({ "servers": ["localhost"], "mode": "core" })),
            ""
        );
    }

    #[test]
    fn all_configuration_errors_are_reported() {
        insta::assert_snapshot!(errors(serde_json::json!({
            "servers": ["nats://u:hunter2@localhost", "ws://localhost", "http://x", "nats://[::"],
            "subject": "entries.*.{pid}",
            "order": "strict",
            "stream": { "name": "A.B", "create": true, "replicas": 9, "duplicate_window": "10ms", "subjects": ["a..b"] },
            "max_in_flight": 70_000,
            "ack_timeout": "10ms",
            "dead_letter": { "subject": "a b" },
            "auth": { "user": "u", "token": "hunter2", "token_file": "t" },
            "tls": { "cert_file": "c" },
        })));
        insta::assert_snapshot!(errors(serde_json::json!({
            "servers": [],
            "subject": "a..{result}",
            "mode": "core",
            "order": "strict",
            "stream": { "name": "S" },
            "dead_letter": {},
            "auth": {},
        })));
        insta::assert_snapshot!(errors(serde_json::json!({
            "servers": ["localhost"],
            "stream": { "name": "S", "max_age": "7d", "replicas": 1 },
            "dead_letter": { "subject": "neuroio.entries.dead.letters.too" },
        })));
    }

    #[test]
    fn unusable_addresses_are_rejected() {
        for (server, found) in [
            ("h:abc", "invalid port number"),
            ("h:99999", "invalid port number"),
            ("h:0", "port 0"),
            ("h 4222", "white space"),
            (" nats://h", "white space"),
            ("nats://h:4222,nats://i:4222", "a comma"),
            ("kafka://h", "found kafka://"),
            ("nats://", "without a host"),
            ("nats://:4222", "empty"),
            ("nats://h/path", "a path"),
            ("h?tls=true", "a path"),
            ("nats://h*", "character"),
            ("nats://[::1", "IPv6"),
            ("hunter2@h", "user or password"),
            ("", "empty text"),
        ] {
            let message = address_error(server).unwrap_or_else(|| panic!("{server} is accepted"));
            assert!(message.contains(found), "{server}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        for server in [
            "h",
            "h:4222",
            "nats://h",
            "NATS://h",
            "TLS://h:1/",
            "[::1]:4222",
            "1.2.3.4",
            "h.",
            "nats://a_b",
        ] {
            assert_eq!(address_error(server), None, "{server}");
        }
    }

    #[test]
    fn reserved_subjects_are_refused() {
        for subject in [
            "_INBOX.x",
            "$JS{feed}.x",
            "$SYS.a",
            "$JS.API.{result}",
            "_R_.{feed}",
        ] {
            let found = errors(serde_json::json!({ "servers": ["h"], "mode": "core", "subject": subject }));
            assert!(found.starts_with("subject: found"), "{subject}: {found}");
        }
    }

    #[test]
    fn stream_created_by_the_sink_is_strict() {
        let mut config = NatsConfig::new("localhost", "S");
        assert_eq!(config.order(), Order::Relaxed);
        config.stream.as_mut().unwrap().create = true;
        assert_eq!(config.order(), Order::Strict);
        config.order = Some(Order::Relaxed);
        assert_eq!(config.order(), Order::Relaxed);
    }

    #[test]
    fn secrets_are_not_shown() {
        let config: NatsConfig = serde_json::from_value(serde_json::json!({
            "servers": ["localhost"],
            "auth": { "user": "u", "password": "hunter2", "token": "hunter2", "nkey": "hunter2" },
        }))
        .unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
