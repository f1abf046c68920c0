//! A platform that sends what it is told to, over one connection after the other.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// What is done on a connection, step by step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Answers AUTH.
    Text(String),
    Binary(Vec<u8>),
    /// Text that is no UTF-8.
    BrokenText(Vec<u8>),
    Close(String),
}

/// Serves connections: the first by the first list, and so on; those after the last list by the last list again. After a
/// list without a close it answers pings.
pub(crate) fn serve(scripts: Vec<Vec<Step>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let number = Arc::new(Mutex::new(0));
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let script = {
                let mut number = number.lock().unwrap();
                let script = scripts[(*number).min(scripts.len() - 1)].clone();
                *number += 1;
                script
            };
            // A bridge that is killed hangs up in the middle.
            thread::spawn(move || drop(converse(stream, &script)));
        }
    });
    url
}

fn converse(stream: TcpStream, script: &[Step]) -> Result<(), Box<tungstenite::Error>> {
    let mut socket = tungstenite::accept(stream).map_err(|_| tungstenite::Error::AttackAttempt)?;
    // AUTH, the first of all.
    socket.read()?;
    for step in script {
        match step {
            Step::Text(text) => socket.send(Message::text(text))?,
            Step::Binary(bytes) => socket.send(Message::binary(bytes.clone()))?,
            Step::BrokenText(bytes) => {
                let frame = Frame::message(bytes.clone(), OpCode::Data(Data::Text), true);
                socket.send(Message::Frame(frame))?;
            }
            Step::Close(reason) => {
                socket.close(Some(CloseFrame {
                    code: 4001.into(),
                    reason: reason.into(),
                }))?;
            }
        }
    }
    answer_pings(&mut socket)
}

fn answer_pings(socket: &mut WebSocket<TcpStream>) -> Result<(), Box<tungstenite::Error>> {
    loop {
        if socket.read()?.is_text() {
            socket.send(Message::text(r#"{"PING":"PONG"}"#))?;
        }
    }
}
