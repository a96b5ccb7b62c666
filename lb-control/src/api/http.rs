//! One HTTP connection: how long it may take, how much it may say, and an answer with a reason to what is not HTTP.
//!
//! A connection carries one request. Its head is read and checked here, because the HTTP library answers a bad one
//! with a bare status; then the library gets the bytes as if they had just come.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::Uri;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, warn};

use super::types::{ErrorBody, ErrorKind};

/// Connections at a time; more wait to be accepted.
pub(super) const CONNECTIONS: usize = 64;
/// For so long at least is a connection served when others wait.
const FAIR_TIME: Duration = Duration::from_millis(500);
/// Longest request line with headers, bytes.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// A request's head must have come by then: short, because silent clients must not keep others waiting for long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A client that takes nothing of the answer for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failure to accept (no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are being served when the daemon stops may finish within this time.
pub(crate) const DRAIN: Duration = Duration::from_secs(1);

/// Where connections come from.
pub trait Listener: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

/// Serves `router` until `stop` is true, then lets what is under way finish.
pub async fn serve(listener: impl Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let mut places = Places::default();
    let mut is_failing = false;
    loop {
        let next = async {
            let accepted = listener.accept().await;
            places.make_room().await;
            accepted
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = stop.wait_for(|&stop| stop) => break,
        };
        match accepted {
            Ok(stream) => {
                is_failing = false;
                places.take(stream, router.clone());
            }
            Err(error) => {
                if !is_failing {
                    warn!(%error, "cannot accept connections");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let _ = timeout(DRAIN, places.empty()).await;
}

/// The connections that are being served.
#[derive(Default)]
struct Places {
    tasks: JoinSet<()>,
    /// Oldest first.
    taken: VecDeque<Place>,
    is_crowded: bool,
}

struct Place {
    task: AbortHandle,
    since: Instant,
    /// Its request has come.
    has_asked: Arc<AtomicBool>,
}

impl Places {
    fn take<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&mut self, stream: S, router: Router) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = has_asked.clone();
        let task = self.tasks.spawn(async move {
            if let Err(error) = serve_one(stream, router, &asked).await {
                debug!(%error, "connection ended early");
            }
        });
        self.taken.push_back(Place { task, since: Instant::now(), has_asked });
    }

    /// Waits for a place. When none becomes free in time the oldest connection that has not asked for anything yet is cut
    /// off, or the oldest of all: whoever asks and reads at once is served, however many others do not.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.taken.retain(|place| !place.task.is_finished());
            if self.taken.len() < CONNECTIONS {
                self.is_crowded &= self.taken.len() > CONNECTIONS / 2;
                return;
            }
            let first_fair = self.taken[0].since + FAIR_TIME;
            if Instant::now() < first_fair {
                tokio::select! {
                    _ = self.tasks.join_next() => {}
                    () = tokio::time::sleep_until(first_fair) => {}
                }
                continue;
            }
            let has_had_time = |place: &Place| place.since.elapsed() >= FAIR_TIME;
            let is_silent = |place: &Place| has_had_time(place) && !place.has_asked.load(Relaxed);
            let victim = self.taken.iter().position(is_silent).unwrap_or(0);
            self.taken[victim].task.abort();
            if !self.is_crowded {
                self.is_crowded = true;
                warn!("{CONNECTIONS} connections at a time are served: the oldest are cut off for new ones");
            }
            self.tasks.join_next().await;
        }
    }

    /// Waits until all are served.
    async fn empty(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn serve_one<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    has_asked: &AtomicBool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut stream = Box::pin(stream);
    let head = match timeout(HEAD_TIMEOUT, read_head(&mut stream)).await {
        Ok(Ok(Some(head))) => head,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(Bad::Io(error))) => return Err(error.into()),
        Ok(Err(Bad::Request(why))) => return Ok(refuse(&mut stream, &why).await?),
        Err(_) => {
            let why = format!("the request's head did not come within {} s", HEAD_TIMEOUT.as_secs());
            return Ok(refuse(&mut stream, &why).await?);
        }
    };
    has_asked.store(true, Relaxed);
    let stream = Replay { head, stream };
    let service = TowerToHyperService::new(router);
    http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

enum Bad {
    Io(io::Error),
    Request(String),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Bad {
        Bad::Io(error)
    }
}

/// Reads until the head is whole and right; what came of the body is behind it. `None`: the client said nothing.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>, Bad> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            if bytes.is_empty() {
                return Ok(None);
            }
            return Err(Bad::Request("the request ends within its head".to_owned()));
        }
        match check_head(&bytes) {
            Ok(true) => return Ok(Some(bytes.into())),
            Ok(false) if bytes.len() >= MAX_HEAD => {
                return Err(Bad::Request(format!("the request's head is longer than {MAX_HEAD} bytes")));
            }
            Ok(false) => {}
            Err(why) => return Err(Bad::Request(why)),
        }
    }
}

/// True when the head is whole, false when more has to come.
fn check_head(bytes: &[u8]) -> Result<bool, String> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => return Ok(false),
        Ok(httparse::Status::Complete(_)) => {}
        Err(error) => return Err(format!("not an HTTP/1.1 request: {error}")),
    }
    let path = request.path.unwrap_or_default();
    if Uri::try_from(path).is_err() {
        return Err(format!("{path:?} is no URL"));
    }
    let mut lengths = 0;
    for header in request.headers.iter() {
        let value = header.value;
        if header.name.eq_ignore_ascii_case("content-length") {
            lengths += 1;
            let is_number = std::str::from_utf8(value).is_ok_and(|text| {
                text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok()
            });
            if !is_number || lengths > 1 {
                return Err(format!("bad Content-Length: {}", String::from_utf8_lossy(value)));
            }
        }
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(format!("Transfer-Encoding {} is not known", String::from_utf8_lossy(value)));
            }
            // RFC 9112 §6.1: it came with HTTP/1.1.
            if request.version == Some(0) {
                return Err("Transfer-Encoding in an HTTP/1.0 request".to_owned());
            }
        }
    }
    Ok(true)
}

/// Answers 400 with the reason.
async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    let error = ErrorBody::new(ErrorKind::BadRequest, why);
    let body = serde_json::to_string(&error).map_err(io::Error::other)?;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with bytes unread would reset the connection, and the client might never see the answer.
    let mut rest = [0; 4096];
    let mut left: usize = 1 << 20;
    let drain = async {
        while let Ok(n @ 1..) = stream.read(&mut rest).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(Duration::from_secs(1), drain).await;
    Ok(())
}

/// A stream whose first bytes were read already.
struct Replay<S> {
    head: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Replay<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let n = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replay<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
