//! What the bridge says over HTTP: `/`, `/metrics`, `/livez`, `/readyz`, `/status`. Never events.

mod metrics;
mod status;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State as Extract,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::status::Status;
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
    let router = Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(state);
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        served = async { axum::serve(listener, router).await } => served,
    }
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
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
