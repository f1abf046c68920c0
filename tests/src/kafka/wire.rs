//! Checks that a Kafka broker answers, with the only request that needs no authentication.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use crate::http::connect;

const CORRELATION: i32 = 0x6e62;

/// `ApiVersions` version 0 without a client id: request key 18, version 0, correlation id, null string.
const API_VERSIONS: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0x6e, 0x62, 0xff, 0xff];

/// Requests the supported versions from the broker at `host:port`, without encryption.
///
/// # Errors
/// Returns an error if the port is closed, or if the server does not answer within 3 seconds or is not Kafka.
pub fn answers(bootstrap: &str) -> Result<()> {
    let mut stream = connect(bootstrap)?;
    stream
        .write_all(&API_VERSIONS)
        .with_context(|| format!("sending a request to {bootstrap}"))?;
    let mut answer = [0; 10];
    stream
        .read_exact(&mut answer)
        .with_context(|| format!("waiting for the response of {bootstrap}"))?;
    let [_, _, _, _, a, b, c, d, e, f] = answer;
    ensure!(
        i32::from_be_bytes([a, b, c, d]) == CORRELATION,
        "{bootstrap} does not speak Kafka's protocol"
    );
    match i16::from_be_bytes([e, f]) {
        0 => Ok(()),
        code => bail!("{bootstrap} responded with Kafka's error {code}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answer_with(bytes: &'static [u8]) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 14]).unwrap();
            stream.write_all(bytes).unwrap();
        });
        let result = answers(&address);
        server.join().unwrap();
        result
    }

    #[test]
    fn kafka_response_is_accepted() {
        answer_with(&[0, 0, 0, 10, 0, 0, 0x6e, 0x62, 0, 0]).unwrap();
    }

    #[test]
    fn other_responses_are_rejected() {
        let error = answer_with(b"HTTP/1.1 400 Bad Request").unwrap_err();
        assert!(
            error.to_string().contains("does not speak Kafka's protocol"),
            "{error}"
        );
        let error = answer_with(&[0, 0, 0, 10, 0, 0, 0x6e, 0x62, 0, 35]).unwrap_err();
        assert!(error.to_string().contains("error 35"), "{error}");
    }
}
