//! `/`: the status page and its files. All files are compiled into the binary; the page loads none from other hosts.

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};

use super::App;

/// The content security policy: resources of this server only, no inline code, no embedding in frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(|| file("text/html", include_str!("page/page.html"))))
        .route(
            "/page.css",
            get(|| file("text/css", include_str!("page/page.css"))),
        )
        .route("/cluster.js", get(|| script(include_str!("page/cluster.js"))))
        .route("/history.js", get(|| script(include_str!("page/history.js"))))
        .route("/page.js", get(|| script(include_str!("page/page.js"))))
        .route("/parts.js", get(|| script(include_str!("page/parts.js"))))
        .route("/plots.js", get(|| script(include_str!("page/plots.js"))))
        .route("/rows.js", get(|| script(include_str!("page/rows.js"))))
        .route("/tables.js", get(|| script(include_str!("page/tables.js"))))
        .route("/timeline.js", get(|| script(include_str!("page/timeline.js"))))
        .route("/way.js", get(|| script(include_str!("page/way.js"))))
        .route("/words.js", get(|| script(include_str!("page/words.js"))))
        .route(
            "/icon.svg",
            get(|| file("image/svg+xml", include_str!("page/icon.svg"))),
        )
}

async fn script(text: &'static str) -> impl IntoResponse {
    file("text/javascript", text).await
}

pub(super) async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, String); 5] = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        // The page changes with the version of the bridge.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (headers, text)
}
