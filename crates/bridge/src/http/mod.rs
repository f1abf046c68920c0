//! The HTTP server with `/`, `/metrics`, `/livez`, `/readyz`, `/runbooks`, `/status` and `/status/stream`. No response contains
//! events.

mod access;
mod answer;
mod attempts;
mod hosts;
mod metrics;
mod page;
mod runbooks;
mod server;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod timed;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{FromRef, State as Extract},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{access::Access, answer::summary, status::Status};
use self::{access::PasswordCheck, hosts::Hosts, stream::StatusStream};
use crate::state::State;

/// The path of the stream of server-sent events.
const STREAM: &str = "/status/stream";

/// Binds the HTTP address.
///
/// # Errors
/// Returns an error if the address is in use, or is not an address of this machine.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves requests for `localhost`, an IP address, or one of `hosts`, with the password if there is one, until `stop`. Then
/// waits half a second for pending responses.
pub(crate) async fn serve(
    listener: TcpListener,
    hosts: Vec<String>,
    access: Access,
    state: Arc<State>,
    stop: CancellationToken,
) {
    let access = Arc::new(access);
    let stream = Arc::new(StatusStream::new(stop.clone()));
    let router = page::routes()
        .route("/status", get(status))
        .route(STREAM, get(listen))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/runbooks", get(runbooks::show))
        .with_state(App {
            state: Arc::clone(&state),
            stream: Arc::clone(&stream),
        })
        .layer(middleware::from_fn_with_state(
            PasswordCheck {
                access: Arc::clone(&access),
                connections: Arc::clone(&state.http),
            },
            access::check,
        ))
        .layer(middleware::from_fn_with_state(
            Hosts::new(&hosts, Arc::clone(&state.http)),
            hosts::check,
        ));
    tokio::select! {
        biased;
        () = server::accept(listener, router, &access, &state.http, stop) => {}
        never = access.reload() => match never {},
        never = stream.send_updates(&state) => match never {},
    }
}

/// The shared state of the handlers.
#[derive(Clone)]
struct App {
    state: Arc<State>,
    stream: Arc<StatusStream>,
}

impl FromRef<App> for Arc<State> {
    fn from_ref(app: &App) -> Self {
        Arc::clone(&app.state)
    }
}

async fn listen(Extract(app): Extract<App>) -> Response {
    app.stream.listen()
}

async fn status(Extract(state): Extract<Arc<State>>) -> Response {
    json(StatusCode::OK, &Status::of(&state.view()))
}

async fn metrics(Extract(state): Extract<Arc<State>>) -> Response {
    match metrics::render(&state.view()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => failed(format!("metrics cannot be encoded: {error}")),
    }
}

async fn livez() -> &'static str {
    // The response itself proves that the runtime makes progress.
    "ok\n"
}

async fn readyz(Extract(state): Extract<Arc<State>>) -> Response {
    let unready = state.view().unready();
    let code = if unready.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(code, &status::Readiness::of(&unready))
}

fn json(code: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(text) => (code, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => failed(format!("response cannot be encoded: {error}")),
    }
}

fn failed(reason: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
}
