use futures_util::SinkExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite};

use super::*;
use crate::stats::DisconnectReason;

/// The time limit of everything that a test waits for.
const LIMIT: Duration = Duration::from_secs(20);

async fn platform() -> (TcpListener, EventListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    (listener, EventListener::new("t").url(url).open_timeout(LIMIT))
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let auth = socket.next().await.unwrap().unwrap();
    assert_eq!(
        auth.to_text().unwrap(),
        r#"{"action":"AUTH","data":{"token":"t"}}"#
    );
    socket
}

async fn send_texts(socket: &mut WebSocketStream<TcpStream>, texts: &[&str]) {
    for text in texts {
        socket.send(tungstenite::Message::text(*text)).await.unwrap();
    }
}

/// Returns a short description of a message.
fn described(message: &Message) -> String {
    match message {
        Message::Connected => "connected".into(),
        Message::Authenticated => "authenticated".into(),
        Message::Pong { rtt } => format!("pong, measured: {}", rtt.is_some()),
        Message::Error(error) => format!("error {error}"),
        Message::Event(event) => format!(
            "event {} {}",
            event.id().unwrap_or_default(),
            event.face_image().unwrap_or_default()
        ),
        Message::Malformed { text, reason } => format!("malformed {text} {}", reason.as_str()),
        Message::Disconnected { reason, .. } => format!("disconnected {reason}"),
    }
}

#[tokio::test]
async fn stream_yields_all_kinds_of_messages_in_order() {
    let (listener, client) = platform().await;
    let server = async {
        let mut socket = accept(&listener).await;
        send_texts(&mut socket, &[r#"{"auth":"ok"}"#]).await;
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            r#"{"action":"PING"}"#
        );
        send_texts(
            &mut socket,
            &[
                r#"{"PING":"PONG"}"#,
                r#"{"id":1,"data":{"face_image":"http://x"}}"#,
                r#"{"error":"quota"}"#,
                "nonsense",
            ],
        )
        .await;
        socket.close(None).await.unwrap();
        accept(&listener).await
    };
    let receive_text = async {
        let mut stream = client.stream().unwrap();
        let mut messages = Vec::new();
        while messages.len() < 8 {
            messages.push(described(&stream.next().await.unwrap().unwrap()));
        }
        (messages, stream)
    };
    let ((messages, stream), mut second) =
        tokio::time::timeout(LIMIT, async { tokio::join!(receive_text, server) })
            .await
            .unwrap();
    insta::assert_snapshot!(messages.join("\n"), @r"
    connected
    authenticated
    pong, measured: true
    event 1 http://x
    error quota
    malformed nonsense not_json
    disconnected closed
    connected
    ");
    drop(stream);
    // The drop of the stream closes the connection.
    let last = tokio::time::timeout(LIMIT, second.next()).await.unwrap();
    assert!(
        matches!(last, Some(Ok(tungstenite::Message::Close(Some(_))))),
        "{last:?}"
    );
}

#[tokio::test]
async fn handler_receives_each_message_until_the_stop() {
    let (listener, client) = platform().await;
    let stop = CancellationToken::new();
    let server = async {
        let mut socket = accept(&listener).await;
        send_texts(
            &mut socket,
            &[
                r#"{"auth":"ok"}"#,
                r#"{"id":1,"data":{}}"#,
                r#"{"id":2,"data":{}}"#,
            ],
        )
        .await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let events = std::cell::Cell::new(0);
    let run = client.run(stop.clone(), |message| {
        if let Message::Event(_) = message {
            events.set(events.get() + 1);
        }
        if events.get() == 2 {
            stop.cancel();
        }
        std::future::ready(Ok::<_, std::convert::Infallible>(()))
    });
    let (result, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(run, server) })
        .await
        .unwrap();
    result.unwrap();
    assert_eq!(events.get(), 2);
}

#[tokio::test]
async fn handler_error_ends_the_listener() {
    let (listener, client) = platform().await;
    let server = async {
        let mut socket = accept(&listener).await;
        send_texts(&mut socket, &[r#"{"auth":"ok"}"#]).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let run = client.run(CancellationToken::new(), |message| async move {
        match message {
            Message::Authenticated => Err(std::io::Error::other("the disk is full")),
            _ => Ok(()),
        }
    });
    let (result, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(run, server) })
        .await
        .unwrap();
    assert!(matches!(result, Err(ListenError::Handler(error)) if error.to_string() == "the disk is full"));
}

#[tokio::test]
async fn refused_token_ends_the_stream_if_configured() {
    let (listener, client) = platform().await;
    let server = async {
        let mut socket = accept(&listener).await;
        send_texts(&mut socket, &[r#"{"error":"Invalid token"}"#]).await;
        while let Some(Ok(_)) = socket.next().await {}
    };
    let receive_text = async {
        let mut stream = client.exit_on_refused_token().stream().unwrap();
        let mut messages = Vec::new();
        while let Some(message) = stream.next().await {
            messages.push(match message {
                Ok(message) => described(&message),
                Err(error) => error.to_string(),
            });
        }
        assert_eq!(
            stream
                .stats()
                .snapshot()
                .disconnections
                .get(DisconnectReason::TokenRefused),
            1
        );
        messages
    };
    let (messages, ()) = tokio::time::timeout(LIMIT, async { tokio::join!(receive_text, server) })
        .await
        .unwrap();
    insta::assert_snapshot!(messages.join("\n"), @r"
    connected
    error Invalid token
    disconnected token_refused
    source neuroio: the platform refused the token: Invalid token
    ");
}

#[tokio::test]
async fn configuration_error_is_returned_immediately() {
    let error = EventListener::new("").stream().unwrap_err();
    assert!(error.to_string().contains("token: empty"), "{error}");
}
