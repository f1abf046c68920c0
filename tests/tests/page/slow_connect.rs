//! A sink that is not connected after some seconds: status, log, page and metrics name the step, the address and the advice.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::status::SinkState;

use super::{DESK, SOON, source, watch};

const INFO: &[u8] =
    b"INFO {\"server_id\":\"fake\",\"version\":\"2.15.2\",\"headers\":true,\"max_payload\":1048576}\r\n";

/// Starts a server that accepts connections, and sends a greeting and nothing else. Returns the address of the server.
fn silent_after(greeting: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            // The write fails if the client has closed the connection; the client then needs no greeting.
            let _ = socket.write_all(greeting);
            open.push(socket);
        }
    });
    address
}

/// The expected reports about a sink.
struct Expected {
    sink: &'static str,
    address: String,
    /// The label of the metric.
    step: &'static str,
    /// Parts of the reason: the step and the advice.
    parts: [&'static str; 2],
}

impl Expected {
    fn is_in(&self, text: &str) -> bool {
        text.contains(&self.address) && self.parts.iter().all(|part| text.contains(part))
    }
}

#[test]
fn silent_server_is_reported_in_status_log_page_and_metric() {
    let dir = Scratch::new("page-slow-connect").unwrap();
    let expected = [
        Expected {
            sink: "greeting",
            address: silent_after(b""),
            step: "dial",
            parts: ["first line", "check that a NATS server listens at this address"],
        },
        Expected {
            sink: "authentication",
            address: silent_after(INFO),
            step: "sign_in",
            parts: [
                "sign-in",
                "check that the server runs and expects this kind of sign-in",
            ],
        },
        Expected {
            sink: "metadata",
            address: silent_after(b""),
            step: "metadata",
            parts: ["(", "check"],
        },
    ];
    let [greeting, authentication, metadata] = &expected;
    let nats = |sink: &Expected| {
        let Expected { sink, address, .. } = sink;
        format!("[sinks.{sink}]\ntype = \"nats\"\nservers = [\"nats://{address}\"]\nmode = \"core\"\n")
    };
    let config = format!(
        "{}{}{}[sinks.{}]\ntype = \"kafka\"\nbootstrap_servers = \"{}\"\ntopic = \"entries\"\n",
        source("ws://127.0.0.1:1/"),
        nats(greeting),
        nats(authentication),
        metadata.sink,
        metadata.address
    );
    let mut bridge = Bridge::start(&dir, &config).unwrap();
    for sink in &expected {
        bridge
            .wait("the reason in the status", SOON, |status| {
                let found = status.sink(sink.sink);
                found.state == SinkState::Down
                    && found.reason.as_deref().is_some_and(|reason| sink.is_in(reason))
            })
            .unwrap();
        let labels = [
            format!("sink=\"{}\"", sink.sink),
            format!("step=\"{}\"", sink.step),
        ];
        let labels = labels.each_ref().map(String::as_str);
        let failures = bridge
            .metric("neurobridge_sink_connect_failures_total", &labels)
            .unwrap();
        assert!(failures >= 1.0, "{labels:?}: {failures}");
        let up = bridge.metric("neurobridge_sink_up", &labels[..1]).unwrap();
        assert!(up == 0.0, "{labels:?}: {up}");
        let log = bridge.process().logged().unwrap();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("the sink is down: ") && line.contains(labels[0]))
            .collect();
        assert!(
            lines.len() == 1 && sink.is_in(lines[0]),
            "{}: {lines:#?}\n{log}",
            sink.sink
        );
    }
    let Some(mut browser) = watch(&bridge, &dir, DESK) else {
        return;
    };
    for sink in &expected {
        let parts = [sink.sink, &sink.address, sink.parts[0], sink.parts[1]];
        let visible = format!(
            "[...document.querySelectorAll('.part')].some(part => {parts:?}.every(text => part.innerText.includes(text)))"
        );
        browser.wait("the reason on the page", SOON, &visible).unwrap();
    }
}
