//! A platform that sends scripted messages on successive connections.

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

/// A step of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Sends a text; the first one answers AUTH.
    Text(String),
    Binary(Vec<u8>),
    /// Sends a text frame that is not UTF-8.
    BrokenText(Vec<u8>),
    Close(String),
}

/// Delays the platform's answers until it is opened, so that all observers are connected before the first event.
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

/// Serves connections: each one uses the next script, and all connections after the last script repeat the last one.
/// After a script without a close, the platform answers pings. No connection is answered before the gate is open.
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
            // A killed bridge closes its connection in the middle, so errors are ignored.
            thread::spawn(move || drop(converse(stream, &gate, next)));
        }
    });
    url
}

/// Sends the next script, but only on a connection that sends AUTH, because the bridge closes some connections while
/// these wait at the gate.
fn converse(
    stream: TcpStream,
    gate: &Gate,
    next: impl FnOnce() -> Vec<Step>,
) -> Result<(), Box<tungstenite::Error>> {
    gate.pass();
    let mut socket = tungstenite::accept(stream).map_err(|_| tungstenite::Error::AttackAttempt)?;
    // AUTH is the first message.
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
