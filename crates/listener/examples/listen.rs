//! Listens to the feed and prints its messages: the platform's documented Python example in Rust.
//!
//! Run it with `cargo run --package neurobridge-listener --example listen`. The environment variable `NEUROIO_TOKEN` contains
//! the API token, `NEUROIO_URL` the address of the feed (the platform's own by default). Closes the connection and ends on
//! SIGHUP, SIGTERM and SIGINT.

use std::{convert::Infallible, env, error::Error};

use neurobridge_listener::{EventListener, Message};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let token = env::var("NEUROIO_TOKEN").map_err(|_| "set NEUROIO_TOKEN to your API token")?;
    let mut listener = EventListener::new(token);
    if let Ok(url) = env::var("NEUROIO_URL") {
        listener = listener.url(url);
    }
    listener.run(stop_on_signals()?, handle).await?;
    eprintln!("stopped");
    Ok(())
}

/// Prints a message.
async fn handle(message: Message) -> Result<(), Infallible> {
    match message {
        Message::Connected => eprintln!("connected"),
        Message::Authenticated => eprintln!("authenticated"),
        Message::Pong { rtt } => eprintln!("connection alive, round trip {rtt:?}"),
        Message::Error(error) => eprintln!("error: {error}"),
        Message::Event(event) => {
            let id = event.id().unwrap_or_default();
            let face_image = event.face_image().unwrap_or_default();
            report(&format!("event {id}: {face_image}"));
        }
        Message::Disconnected { sentence, .. } => eprintln!("disconnected: {sentence}"),
        other => eprintln!("{other:?}"),
    }
    Ok(())
}

/// Prints an event to standard output; other messages are printed to standard error.
#[allow(clippy::print_stdout, reason = "the example prints events")]
fn report(line: &str) {
    println!("{line}");
}

/// Returns a token that is cancelled by the first signal to stop.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [
        SignalKind::hangup(),
        SignalKind::terminate(),
        SignalKind::interrupt(),
    ] {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}
