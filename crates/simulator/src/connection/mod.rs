//! One TCP connection: the HTTP request, then either a REST response or the WebSocket feed.

mod declared;
mod order;
mod outbox;
mod session;
mod socket;
mod stream;

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::{
    handshake::server::{Request, create_response, write_response},
    http::HeaderValue,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(crate) use self::socket::Socket;
use self::{declared::Client, session::Session};
use crate::{
    declared::Service,
    faults::{ConnectionFaults, Phase, Reaction, RestFault},
    http::{Delivery, ErrorCode, RequestError, Response, read_body, read_request},
    platform::{Count, Platform},
    rest,
};

/// Serves a connection until it ends or `stop` is cancelled. Failures of a connection are logged; they are not errors
/// of the simulator.
pub(crate) async fn serve(mut socket: Socket, platform: Arc<Platform>, stop: CancellationToken) {
    let request = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        request = read_request(&mut socket) => request,
    };
    let (request, after_head) = match request {
        Ok(read) => read,
        Err(error) => return refuse(socket, &error).await,
    };
    let serves_rest = platform.declared.as_ref().is_none_or(Service::has_list);
    if !wants_upgrade(&request) && !serves_rest {
        let response = Response::error(
            426,
            "this feed accepts only WebSocket connections",
            ErrorCode::Invalid,
            None,
        );
        return answer(socket, &response, Delivery::Whole).await;
    }
    if !wants_upgrade(&request) {
        return tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = serve_rest(socket, &request, after_head, &platform) => {}
        };
    }
    let number = platform.next_connection();
    let mut faults = ConnectionFaults::new(number);
    if let Some(Reaction::Http { status, retry_after }) =
        faults.early(&platform.plan, Phase::Upgrade, Instant::now())
    {
        platform.count(Count::Fault);
        let mut response = Response::error(status, "upgrade refused by a fault rule", ErrorCode::Fault, None);
        response.retry_after = retry_after;
        return answer(socket, &response, Delivery::Whole).await;
    }
    match upgrade(&request, &platform) {
        Ok((upgrade, client)) => {
            Session::new(socket, after_head, number, faults, client, &platform, stop)
                .run(upgrade)
                .await
        }
        Err(response) => answer(socket, &response, Delivery::Whole).await,
    }
}

fn wants_upgrade(request: &Request) -> bool {
    request
        .headers()
        .get("upgrade")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Returns the response that accepts an upgrade, and the state of the connection to a declared feed. No WebSocket extension
/// is accepted.
fn upgrade(request: &Request, platform: &Platform) -> Result<(Vec<u8>, Client), Response> {
    let mut client = Client::default();
    let mut subprotocol = None;
    if let Some(service) = &platform.declared {
        (client, subprotocol) = declared::check_request(service, platform, request)?;
    } else if request.uri().path() != "/" {
        return Err(Response::error(
            404,
            "the feed is at the path /",
            ErrorCode::NotFound,
            None,
        ));
    }
    let bad =
        |error: &dyn std::error::Error| Response::error(400, &error.to_string(), ErrorCode::Invalid, None);
    let mut response = create_response(request).map_err(|error| bad(&error))?;
    if let Some(subprotocol) = subprotocol {
        let value = HeaderValue::from_str(&subprotocol).map_err(|error| bad(&error))?;
        response.headers_mut().insert("sec-websocket-protocol", value);
    }
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|error| bad(&error))?;
    Ok((bytes, client))
}

async fn refuse(socket: Socket, error: &RequestError) {
    debug!(%error, "cannot read the request");
    if matches!(
        error,
        RequestError::NotHttp | RequestError::TooLong | RequestError::BodyLength
    ) {
        let response = Response::error(400, &error.to_string(), ErrorCode::Invalid, None);
        answer(socket, &response, Delivery::Whole).await;
    }
}

/// Answers a REST request, with the effects of a fault rule if one is due.
async fn serve_rest(mut socket: Socket, request: &Request, after_head: Vec<u8>, platform: &Platform) {
    let number = platform.next_request();
    let body = match read_body(&mut socket, request, after_head).await {
        Ok(body) => body,
        Err(error) => return refuse(socket, &error).await,
    };
    let fault = platform
        .plan
        .for_request(number, request.uri().path(), Instant::now());
    if fault.is_some() {
        platform.count(Count::Fault);
    }
    let mut delivery = Delivery::Whole;
    let response = match fault {
        Some(RestFault::Http { status, retry_after }) => Response {
            retry_after,
            ..Response::error(status, "refused by a fault rule", ErrorCode::Fault, None)
        },
        Some(RestFault::NoJson) => Response::new(200, b"<html><body>Please sign in</body></html>".to_vec()),
        Some(RestFault::OtherShape) => Response::new(200, br#"{"data":{"items":[]},"total":0}"#.to_vec()),
        fault => {
            match &fault {
                // The fault itself: a server that answers late.
                Some(RestFault::Slow { delay }) => sleep(*delay).await,
                Some(RestFault::Drip { bytes_per_second }) => delivery = Delivery::Drip(*bytes_per_second),
                Some(RestFault::Cut) => delivery = Delivery::Cut,
                _ => {}
            }
            match &platform.declared {
                Some(service) => service.list(request, platform, fault.as_ref()),
                None => rest::respond(request, &body, platform, fault.as_ref()),
            }
        }
    };
    answer(socket, &response, delivery).await;
}

async fn answer(mut socket: Socket, response: &Response, delivery: Delivery) {
    if let Err(error) = response.send(&mut socket, delivery).await {
        debug!(%error, "cannot send the response");
    }
    socket::linger(&mut socket).await;
}
