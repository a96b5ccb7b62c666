//! Any bytes on a connection to the API get one answer, right as HTTP and as JSON; a request that is refused changes
//! nothing.

use std::io;
use std::sync::Mutex;

use lb_control::api::types::ErrorBody;
use lb_control::api::{http, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;

use crate::daemon;
use crate::director::listing;

/// Bytes under way in each direction.
const BUFFER: usize = 64 * 1024;

/// One connection comes, no other.
struct Once(Mutex<Option<DuplexStream>>);

impl http::Listener for Once {
    type Stream = DuplexStream;

    async fn accept(&self) -> io::Result<DuplexStream> {
        let stream = self.0.lock().map_err(|_| io::Error::other("poisoned"))?.take();
        match stream {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

pub(crate) fn run(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (control, plane) = daemon::control();
        let before = listing(control.model());
        let control = control.spawn();
        let (client, ours) = duplex(BUFFER);
        let (_stop, stopped) = watch::channel(false);
        let router = server::unix_router(control.clone(), plane);
        tokio::spawn(http::serve(Once(Mutex::new(Some(ours))), router, stopped));

        let (mut from, mut to) = tokio::io::split(client);
        let mut answer = Vec::new();
        let ask = async {
            // Whoever refuses may close before it has read all.
            let _ = to.write_all(data).await;
            let _ = to.shutdown().await;
        };
        let (_, read) = tokio::join!(ask, from.read_to_end(&mut answer));
        read.expect("a pipe of ours");

        let status = check(&answer, data);
        let after = control.ask(|control| listing(control.model())).await.expect("the control task lives");
        if !matches!(status, Some(200)) {
            assert_eq!(before, after, "a request that was refused changed something");
        }
    });
}

/// The answer's status, what follows it having been found right.
fn check(answer: &[u8], request: &[u8]) -> Option<u16> {
    if request.is_empty() {
        assert!(answer.is_empty(), "an answer to nothing");
        return None;
    }
    let continued = b"HTTP/1.1 100 Continue\r\n\r\n";
    let answer = answer.strip_prefix(continued).unwrap_or(answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer with a head");
    let (head, body) = answer.split_at(end + 4);
    let head = std::str::from_utf8(head).expect("a head of text").to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ").or_else(|| head.strip_prefix("http/1.0 "));
    let status =
        status.and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok()).expect("a status");
    assert_ne!(status, 500, "{head}{}", String::from_utf8_lossy(body));
    let is_json = head.contains("content-type: application/json\r\n") && !head.contains("transfer-encoding");
    if is_json && !body.is_empty() {
        let value: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        if status != 200 {
            let error: ErrorBody = serde_json::from_value(value).expect("an error body");
            assert_eq!(error.error.status(), status, "{error:?}");
            assert!(!error.message.is_empty() && !error.message.contains(char::is_control), "{error:?}");
        }
    } else {
        // Empty lines before a request do not count: RFC 9112, section 2.2.
        let begin = request.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(request.len());
        let is_head = request[begin..].starts_with(b"HEAD ");
        assert!(status < 400 || status == 503 || is_head, "{status} without a reason: {head}");
    }
    Some(status)
}
