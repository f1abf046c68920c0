//! A platform that sends what it is told to, over one connection after the other.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
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

/// Keeps a platform from answering until it is opened, so that all who are to look on are there before the first event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }
}

/// Serves connections: the first by the first list, and so on; those after the last list by the last list again. After a
/// list without a close it answers pings. No connection is answered before the gate is open.
pub(crate) fn serve(scripts: Vec<Vec<Step>>, gate: &Gate) -> String {
    let gate = gate.clone();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let number = Arc::new(Mutex::new(0));
    let scripts = Arc::new(scripts);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (gate, number, scripts) = (gate.clone(), Arc::clone(&number), Arc::clone(&scripts));
            let next = move || {
                let mut number = number.lock().unwrap();
                let script = scripts[(*number).min(scripts.len() - 1)].clone();
                *number += 1;
                script
            };
            // A bridge that is killed hangs up in the middle.
            thread::spawn(move || drop(converse(stream, &gate, next)));
        }
    });
    url
}

/// Only a connection that says AUTH gets the next list: at the gate some are given up.
fn converse(
    stream: TcpStream,
    gate: &Gate,
    next: impl FnOnce() -> Vec<Step>,
) -> Result<(), Box<tungstenite::Error>> {
    gate.pass();
    let mut socket = tungstenite::accept(stream).map_err(|_| tungstenite::Error::AttackAttempt)?;
    // AUTH, the first of all.
    socket.read()?;
    for step in &next() {
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
