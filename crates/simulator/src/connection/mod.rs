//! One TCP connection: the HTTP request, then either a REST response or the WebSocket feed.

mod outbox;
mod session;
mod socket;
mod stream;

use std::sync::Arc;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::session::Session;
pub(crate) use self::socket::Socket;
use crate::{
    faults::{ConnectionFaults, Phase, Reaction},
    http::{RequestError, Response, read_request},
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
    let (request, behind) = match request {
        Ok(read) => read,
        Err(error) => {
            debug!(%error, "invalid request");
            if matches!(error, RequestError::NotHttp | RequestError::TooLong) {
                answer(
                    socket,
                    &Response::error(400, &error.to_string(), "bad_request", &[]),
                )
                .await;
            }
            return;
        }
    };
    if !wants_upgrade(&request) {
        let response = respond(&request, &platform);
        platform.count(Count::Request);
        return answer(socket, &response).await;
    }
    let number = platform.next_connection();
    let mut faults = ConnectionFaults::new(number);
    if let Some(Reaction::Http { status, retry_after }) =
        faults.early(&platform.plan, Phase::Upgrade, Instant::now())
    {
        platform.count(Count::Fault);
        let mut response = Response::error(status, "upgrade refused by a fault rule", "fault", &[]);
        response.retry_after = retry_after;
        return answer(socket, &response).await;
    }
    match upgrade(&request) {
        Ok(upgrade) => {
            Session::new(socket, behind, number, faults, &platform, stop)
                .run(upgrade)
                .await
        }
        Err(response) => answer(socket, &response).await,
    }
}

fn wants_upgrade(request: &Request) -> bool {
    request
        .headers()
        .get("upgrade")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Returns the bytes that accept an upgrade. No WebSocket extension is accepted.
fn upgrade(request: &Request) -> Result<Vec<u8>, Response> {
    if request.uri().path() != "/" {
        return Err(Response::error(
            404,
            "the feed is at the path /",
            "not_found",
            &[],
        ));
    }
    let bad = |error: &dyn std::error::Error| Response::error(400, &error.to_string(), "bad_request", &[]);
    let response = create_response(request).map_err(|error| bad(&error))?;
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|error| bad(&error))?;
    Ok(bytes)
}

fn respond(request: &Request, platform: &Platform) -> Response {
    match rest::token(request) {
        Some(token) if platform.accepts(token) => {
            rest::respond(request, &platform.entries, platform.feed.produced(Instant::now()))
        }
        _ => rest::unauthorised(),
    }
}

async fn answer(mut socket: Socket, response: &Response) {
    if let Err(error) = response.send(&mut socket).await {
        debug!(%error, "cannot send the response");
    }
    socket::linger(&mut socket).await;
}
