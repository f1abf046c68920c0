//! Opens a connection: name look-up, TCP, proxy, TLS and upgrade, all within one time limit (`open_timeout`).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use neurobridge_core::{secret::SecretSet, units::ByteSize};
use neurobridge_protocol::ConnectionRequest;
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Socket, http_date, low_water::LowWater, upgrade::upgrade};
use crate::{
    config::SourceConfig,
    endpoint::Endpoint,
    error::{DialError, DialStage},
    proxy::{Proxy, ProxyError},
    tls::{self, Stream, TlsSetupError},
};

/// The size of the read buffer; frames are slices of the buffer. tungstenite allocates a new buffer while slices
/// of the last one are held, and zeroes the free part before each read: a larger buffer would cost a quiet source
/// more than it saves for a busy one.
const FRAME_BUFFER_BYTES: usize = 16 * 1024;

/// The size of the buffer for the answer to the upgrade and the data in the same packet. Nearly all later
/// reads are larger and bypass the buffer.
const HEAD_BUFFER_BYTES: usize = 512;

/// The limit of the write buffer, and of one message: a server that does not read must not fill the memory. Large
/// enough for a subscription of some ten thousand symbols, and for the acknowledgements that may wait.
const MAX_WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The time before the next address of a host is tried in parallel: an unresponsive first address must not use up
/// the whole time limit, and an address that is only slow needs no parallel attempt.
const STAGGER: Duration = Duration::from_secs(1);

/// The maximum number of addresses in one attempt.
const MAX_ADDRESSES: usize = 16;

/// The idle time before TCP keep-alive probes. The probes detect a silent peer, and are sent before a firewall
/// drops the state of the connection.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// The time between two keep-alive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Opens connections.
pub(crate) trait Dial: Send + Sync + 'static {
    /// The stream below the WebSocket.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens a connection with these additions to the upgrade request: to `other` if it is given, otherwise to the
    /// configured address. Dropping the future cancels the attempt.
    fn dial(
        &self,
        request: &ConnectionRequest,
        other: Option<&Endpoint>,
    ) -> impl Future<Output = Result<Dialled<Self::Stream>, DialError>> + Send;
}

/// An open WebSocket.
pub(crate) struct Dialled<S> {
    pub(crate) socket: Socket<S>,
    /// The local time minus the server's; `None` if the answer to the upgrade states no time.
    pub(crate) clock_skew_seconds: Option<f64>,
}

/// Opens connections with the configuration of a source.
pub(crate) struct Dialler {
    endpoint: Endpoint,
    proxy: Option<Proxy>,
    secrets: SecretSet,
    open_timeout: Duration,
    max_frame_size: ByteSize,
    config: SourceConfig,
    /// The TLS configuration; `None` if the connection has no TLS, or if the configuration uses files, which each dial
    /// reads again.
    tls: Option<Arc<ClientConfig>>,
}

impl Dialler {
    /// Creates a dialler, and reads the TLS files once, so that errors in them are reported at the start.
    /// Blocks while reading. A file that cannot be read within the time limit is not an error here.
    pub(crate) fn new(
        config: &SourceConfig,
        endpoint: Endpoint,
        proxy: Option<Proxy>,
        secrets: SecretSet,
    ) -> Result<Self, TlsSetupError> {
        let tls = match endpoint
            .is_tls
            .then(|| tls::client_config(&config.tls))
            .transpose()
        {
            // Each dial reads the files again, and reports an error if reading exceeds the time limit again.
            Err(error) if error.is_timeout() => None,
            tls => tls?,
        };
        let has_files = config.tls.ca_file.is_some() || config.tls.cert_file.is_some();
        Ok(Self {
            endpoint,
            proxy,
            secrets,
            open_timeout: config.open_timeout,
            max_frame_size: config.max_frame_size,
            config: config.clone(),
            tls: tls.filter(|_| !has_files),
        })
    }

    /// Returns a dialler for another address with the same settings.
    fn for_endpoint(&self, endpoint: &Endpoint) -> Result<Self, DialError> {
        let proxy = self
            .config
            .proxy_choice()
            .and_then(|choice| choice.resolve(endpoint))
            .map_err(ProxyError::Invalid)?;
        Ok(Self {
            endpoint: endpoint.clone(),
            proxy,
            secrets: self.secrets.clone(),
            open_timeout: self.open_timeout,
            max_frame_size: self.max_frame_size,
            config: self.config.clone(),
            tls: self.tls.clone().filter(|_| endpoint.is_tls),
        })
    }

    async fn open(&self, request: &ConnectionRequest) -> Result<Dialled<BufReader<Stream>>, DialError> {
        let progress = Progress::default();
        self.first(&progress, |address, tls| {
            // Boxed, because the futures of the handshakes are large, and handshakes are rare.
            Box::pin(self.open_at(address, tls, request, &progress))
        })
        .await
    }

    /// Opens a connection up to TLS, for another protocol than WebSocket.
    pub(crate) async fn open_stream(&self) -> Result<Stream, DialError> {
        let progress = Progress::default();
        self.first(&progress, |address, tls| {
            Box::pin(self.stream_at(address, tls, &progress))
        })
        .await
    }

    /// Returns the first connection that `open` opens to an address of the proxy, or without a proxy to one of the host.
    async fn first<T, F>(
        &self,
        progress: &Progress,
        open: impl Fn(SocketAddr, Option<Arc<ClientConfig>>) -> F,
    ) -> Result<T, DialError>
    where
        F: Future<Output = Result<T, DialError>> + Unpin,
    {
        let deadline = Instant::now() + self.open_timeout;
        let timed_out = |addresses| DialError::Timeout {
            target: self.endpoint.authority(),
            timeout: self.open_timeout,
            addresses,
            stage: progress.stage(),
        };
        let tls = self.tls_config().await?;
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (self.endpoint.host.as_str(), self.endpoint.port),
        };
        let addresses = timeout_at(deadline, resolve(host, port))
            .await
            .map_err(|_| timed_out(0))??;
        progress.reach(DialStage::Connect);
        first_of(&addresses, deadline, |address| open(address, tls.clone()))
            .await
            .unwrap_or_else(|| Err(timed_out(addresses.len())))
    }

    async fn tls_config(&self) -> Result<Option<Arc<ClientConfig>>, DialError> {
        if !self.endpoint.is_tls || self.tls.is_some() {
            return Ok(self.tls.clone());
        }
        let files = self.config.tls.clone();
        let config = tokio::task::spawn_blocking(move || tls::client_config(&files))
            .await
            .expect("reading certificates neither panics nor is cancelled")
            .map_err(tls::TlsError::from)?;
        Ok(Some(config))
    }

    async fn open_at(
        &self,
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
        request: &ConnectionRequest,
        progress: &Progress,
    ) -> Result<Dialled<BufReader<Stream>>, DialError> {
        let stream = self.stream_at(address, tls, progress).await?;
        progress.reach(DialStage::Upgrade);
        let low_water = LowWater::of(stream.tcp());
        let stream = BufReader::with_capacity(HEAD_BUFFER_BYTES, stream);
        let dialled = self.upgrade(stream, request).await?;
        Ok(Dialled {
            socket: dialled.socket.with_low_water(low_water),
            ..dialled
        })
    }

    async fn stream_at(
        &self,
        address: SocketAddr,
        tls: Option<Arc<ClientConfig>>,
        progress: &Progress,
    ) -> Result<Stream, DialError> {
        let mut stream = connect(address)
            .await
            .map_err(|source| DialError::of_connect(address, source))?;
        if let Some(proxy) = &self.proxy {
            progress.reach(DialStage::Proxy);
            proxy.connect(&mut stream, &self.endpoint, &self.secrets).await?;
        }
        let Some(config) = tls else {
            return Ok(Stream::Plain(stream));
        };
        progress.reach(DialStage::Tls);
        Ok(tls::connect(config, &self.endpoint.host, stream).await?)
    }

    async fn upgrade<S>(&self, mut stream: S, request: &ConnectionRequest) -> Result<Dialled<S>, DialError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let head = upgrade(&mut stream, &self.endpoint.uri, request)
            .await
            .map_err(|error| DialError::of_upgrade(self.endpoint.authority(), &self.endpoint.host, error))?;
        let config = websocket_config(self.max_frame_size);
        Ok(Dialled {
            socket: Socket::new(stream, config),
            clock_skew_seconds: http_date::clock_skew_seconds(&head, Timestamp::now()),
        })
    }
}

/// The step that an attempt has reached, over all addresses of the host.
#[derive(Default)]
struct Progress(Mutex<DialStage>);

impl Progress {
    fn reach(&self, stage: DialStage) {
        // Nothing within the lock can panic.
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *reached = stage.max(*reached);
    }

    fn stage(&self) -> DialStage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Dialler {
    type Stream = BufReader<Stream>;

    async fn dial(
        &self,
        request: &ConnectionRequest,
        other: Option<&Endpoint>,
    ) -> Result<Dialled<Self::Stream>, DialError> {
        match other {
            None => self.open(request).await,
            Some(endpoint) => self.for_endpoint(endpoint)?.open(request).await,
        }
    }
}

pub(crate) fn websocket_config(max_frame_size: ByteSize) -> WebSocketConfig {
    let limit = usize::try_from(max_frame_size.bytes()).unwrap_or(usize::MAX);
    WebSocketConfig::default()
        .read_buffer_size(FRAME_BUFFER_BYTES)
        // Each message is written at once: the time that a ping waits in a buffer would be measured as round
        // trip.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let found = lookup_host((host, port))
        .await
        .map_err(|source| DialError::Resolve {
            host: host.to_owned(),
            source,
        })?;
    let addresses = interleaved(found.collect());
    if addresses.is_empty() {
        return Err(DialError::NoAddress {
            host: host.to_owned(),
        });
    }
    Ok(addresses)
}

/// Alternates between the two address families, starting with the one that the system prefers: if one family
/// is unreachable, the second attempt uses the other (RFC 8305).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            break;
        }
        mixed.extend([pair.0, pair.1].into_iter().flatten());
    }
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// Tries the addresses in order, and returns the first connection that opens. The next attempt starts when the last
/// one has failed, or after [`STAGGER`] (less with many addresses) in parallel to the running attempts. Attempts that
/// still run are dropped at the end.
///
/// Returns the error of an attempt if all have failed, or if no other address can succeed either. Returns `None` at the
/// deadline, unless an attempt has failed after its TCP connection was open.
async fn first_of<T, F>(
    addresses: &[SocketAddr],
    deadline: Instant,
    open: impl Fn(SocketAddr) -> F,
) -> Option<Result<T, DialError>>
where
    F: Future<Output = Result<T, DialError>> + Unpin,
{
    let time = deadline.saturating_duration_since(Instant::now());
    let share = STAGGER.min(
        time / (u32::try_from(addresses.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1)),
    );
    let mut waiting = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut failure: Option<DialError> = None;
    loop {
        running.extend(waiting.next().map(|address| open(*address)));
        let time_limit = if waiting.as_slice().is_empty() {
            deadline.saturating_duration_since(Instant::now())
        } else {
            share
        };
        match timeout(time_limit, running.next()).await {
            Ok(Some(Err(error))) if error.may_succeed_elsewhere() => {
                // The error of a host that answered is more informative than a refused connection.
                if failure.as_ref().is_none_or(is_refused_connection) {
                    failure = Some(error);
                }
            }
            Ok(Some(result)) => return Some(result),
            Ok(None) => return failure.map(Err),
            Err(_) if Instant::now() >= deadline => {
                return failure.filter(|failure| !is_refused_connection(failure)).map(Err);
            }
            Err(_) => {}
        }
    }
}

const fn is_refused_connection(error: &DialError) -> bool {
    matches!(error, DialError::Connect { .. })
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
