//! A fake NATS server for tests, with one stream and one consumer. It can lose deliveries and ignore requests for messages.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_nats::Client;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
};

/// The time after which a request for messages expires.
const EXPIRY: Duration = Duration::from_millis(5);

/// The name of the stream.
pub(crate) const STREAM: &str = "S";

/// The stream, and the faults.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The ids of the messages; the first one is at place 1.
    pub(crate) messages: Vec<&'static str>,
    /// The places of messages whose next delivery is lost.
    pub(crate) lost: BTreeSet<u64>,
    /// Whether requests for messages are ignored.
    pub(crate) is_paused: bool,
    /// The number of messages that each request wanted.
    pub(crate) batches: Vec<u64>,
    /// The next place of the consumer, and the number of its deliveries.
    consumer: (u64, u64),
}

/// A server for a single client. Ends with the client.
pub(crate) struct FakeServer(Arc<Mutex<State>>);

impl FakeServer {
    /// Starts a server and connects to it.
    pub(crate) async fn start(messages: &[&'static str]) -> (Self, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            messages: messages.to_vec(),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            // An error of the socket ends the connection.
            let _ = serve(socket, &shared).await;
        });
        (Self(state), async_nats::connect(address).await.unwrap())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

async fn serve(socket: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let (read, write) = socket.into_split();
    let mut read = BufReader::new(read);
    let mut answers = Answers {
        write,
        subscriptions: Vec::new(),
    };
    let info = json!({ "server_id": "fake", "version": "2.15.2", "max_payload": 1 << 20, "headers": true });
    answers.send(&format!("INFO {info}\r\n")).await?;
    let mut line = String::new();
    loop {
        line.clear();
        if read.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["PING"] => answers.send("PONG\r\n").await?,
            ["SUB", subject, number] => {
                let prefix = subject.trim_end_matches('*').to_owned();
                answers.subscriptions.push((prefix, (*number).to_owned()));
            }
            ["PUB", subject, reply, size] => {
                let (subject, reply) = ((*subject).to_owned(), (*reply).to_owned());
                let mut body = vec![0; size.parse::<usize>().unwrap() + "\r\n".len()];
                read.read_exact(&mut body).await?;
                let request = serde_json::from_slice(&body).unwrap_or_default();
                answers.answer(&subject, &reply, &request, state).await?;
            }
            ["PUB", subject, size] => {
                let start = format!("MSG {subject}");
                answers.pass_on(&start, subject, size, &mut read).await?;
            }
            ["HPUB", subject, headers, size] => {
                let (start, size) = (format!("HMSG {subject}"), format!("{headers} {size}"));
                answers.pass_on(&start, subject, &size, &mut read).await?;
            }
            _ => {}
        }
    }
}

struct Answers {
    write: OwnedWriteHalf,
    /// The prefix of the subjects of each subscription, and its number.
    subscriptions: Vec<(String, String)>,
}

impl Answers {
    async fn send(&mut self, text: &str) -> io::Result<()> {
        self.write.write_all(text.as_bytes()).await
    }

    /// Returns a message of the client, without a reply subject, to the client's own subscriptions.
    async fn pass_on(
        &mut self,
        start: &str,
        subject: &str,
        sizes: &str,
        read: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<()> {
        let size: usize = sizes.rsplit(' ').next().unwrap().parse().unwrap();
        let mut body = vec![0; size + "\r\n".len()];
        read.read_exact(&mut body).await?;
        let body = String::from_utf8(body).unwrap();
        let all = self.subscriptions.iter();
        let matching = all.filter(|(prefix, _)| subject.starts_with(prefix.as_str()));
        let texts: Vec<String> = matching
            .map(|(_, number)| format!("{start} {number} {sizes}\r\n{body}"))
            .collect();
        self.send(&texts.concat()).await
    }

    async fn answer(
        &mut self,
        subject: &str,
        reply: &str,
        request: &Value,
        state: &Mutex<State>,
    ) -> io::Result<()> {
        let words: Vec<&str> = subject.split('.').skip(2).collect();
        let body = match words.as_slice() {
            ["CONSUMER", "CREATE", _, name] => {
                let first = request["config"]["opt_start_seq"].as_u64().unwrap();
                state.lock().unwrap().consumer = (first, 0);
                json!({ "name": name })
            }
            ["CONSUMER", "MSG", "NEXT", _, name] => {
                let batch = request["batch"].as_u64().unwrap();
                return self.deliver(name, reply, batch, state).await;
            }
            ["STREAM", "INFO", _] => {
                let last = state.lock().unwrap().messages.len();
                json!({ "config": { "name": STREAM }, "state": { "last_seq": last } })
            }
            ["STREAM", "MSG", "GET", _] => {
                let from = request["seq"].as_u64().unwrap();
                if from <= state.lock().unwrap().messages.len() as u64 {
                    json!({ "message": { "seq": from } })
                } else {
                    json!({ "error": { "code": 404, "err_code": 10037, "description": "no message found" } })
                }
            }
            _ => panic!("unexpected request: {subject}"),
        };
        self.message(reply, None, "", &body.to_string()).await
    }

    async fn deliver(&mut self, name: &str, inbox: &str, batch: u64, state: &Mutex<State>) -> io::Result<()> {
        let mut unused = batch;
        let mut deliveries = Vec::new();
        {
            let mut state = state.lock().unwrap();
            state.batches.push(batch);
            if state.is_paused {
                return Ok(());
            }
            while unused > 0
                && let Some(id) = state.messages.get(state.consumer.0 as usize - 1).copied()
            {
                let (place, number) = (state.consumer.0, state.consumer.1 + 1);
                state.consumer = (place + 1, number);
                unused -= 1;
                if !state.lost.remove(&place) {
                    let waiting = state.messages.len() as u64 - place;
                    let reply =
                        format!("$JS.ACK.{STREAM}.{name}.1.{place}.{number}.1700000000000000000.{waiting}");
                    deliveries.push((id, reply));
                }
            }
        }
        for (id, reply) in deliveries {
            self.message(inbox, Some(&reply), &format!("\r\nNats-Msg-Id: {id}"), "")
                .await?;
        }
        if unused > 0 {
            // A real server answers an unfilled request when it expires; a request with `no_wait` once all stored messages
            // are sent.
            tokio::time::sleep(EXPIRY).await;
            let status = format!(" 408 Request Timeout\r\nNats-Pending-Messages: {unused}");
            self.message(inbox, None, &status, "").await?;
        }
        Ok(())
    }

    /// Sends a message; `headers` follow the version of the protocol.
    async fn message(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: &str,
        body: &str,
    ) -> io::Result<()> {
        let of = |(prefix, _): &&(String, String)| subject.starts_with(prefix.as_str());
        let (_, number) = self.subscriptions.iter().find(of).unwrap();
        let reply = reply.map(|reply| format!(" {reply}")).unwrap_or_default();
        let text = if headers.is_empty() {
            format!("MSG {subject} {number}{reply} {}\r\n{body}\r\n", body.len())
        } else {
            let headers = format!("NATS/1.0{headers}\r\n\r\n");
            let size = headers.len() + body.len();
            format!(
                "HMSG {subject} {number}{reply} {} {size}\r\n{headers}{body}\r\n",
                headers.len()
            )
        };
        self.send(&text).await
    }
}
