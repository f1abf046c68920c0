//! What the bridge says over HTTP: `/`, `/metrics`, `/livez`, `/readyz`, `/status`, `/status/stream`. Never events.

mod answer;
mod metrics;
mod page;
mod status;
mod stream;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{FromRef, State as Extract},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::status::Status;
use self::stream::StatusStream;
use crate::state::State;

/// Binds the address at which the bridge answers.
///
/// # Errors
/// It is in use, or not ours.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until told to stop. Requests under way are not waited for: each takes milliseconds.
///
/// # Errors
/// Connections can't be accepted.
pub(crate) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let stream = Arc::new(StatusStream::new(stop.clone()));
    let router = page::routes()
        .route("/status", get(status))
        .route("/status/stream", get(listen))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(App {
            state: Arc::clone(&state),
            stream: Arc::clone(&stream),
        });
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        served = async { axum::serve(listener, router).await } => served,
        never = stream.tell(&state) => match never {},
    }
}

/// What the handlers share.
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
        Err(error) => failed(format!("the metrics can't be written: {error}")),
    }
}

async fn livez() -> &'static str {
    // That this is answered shows that the process turns over.
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
        Err(error) => failed(format!("the answer can't be written: {error}")),
    }
}

fn failed(reason: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
}
