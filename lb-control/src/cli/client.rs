//! The daemon as seen from a command: HTTP over its UNIX socket, one connection a request, nothing in the background.

use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::conntrack::Tracker;
use super::director::{Director, DirectorError};
use crate::api::connections::ConnectionFilter;
use crate::api::conntrack::{
    ConntrackChange, ConntrackCount, ConntrackEvent, ConntrackNew, ConntrackStatistics, Expectation,
    ExpectationEvent, ExpectationFilter, ExpectationNew, Filter, Tracked,
};
use crate::api::explain::{TraceLine, TraceQuery};
use crate::api::types::{
    Batch, BatchReply, Connection, ErrorBody, ServiceAddress, ServiceView, ServicesReply, SyncDaemon,
    Timeouts,
};

/// How long a daemon may think before it answers. A stream may take as long as it likes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the process may not have one more file.
    pub fn new(socket: &Path) -> io::Result<Client> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Client { socket: socket.to_owned(), runtime })
    }

    /// # Errors
    /// No answer, a refusal, or an answer that is not a `T`.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, DirectorError> {
        self.ask("GET", path, Bytes::new())
    }

    /// How many connections fit.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub fn count_connections(&mut self, filter: &ConnectionFilter) -> Result<u64, DirectorError> {
        let path = format!("/v1/connections/count{}", filter.query());
        Ok(self.get::<ConntrackCount>(&path)?.count)
    }

    /// # Errors
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, DirectorError> {
        let body = serde_json::to_vec(body).map_err(|error| self.bad_answer(error))?;
        self.ask("POST", path, body.into())
    }

    /// Posts plain text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_text<T: DeserializeOwned>(&mut self, path: &str, text: String) -> Result<T, DirectorError> {
        self.ask("POST", path, text.into())
    }

    /// Gives the answer on as it comes. It is read ahead: the daemon cuts off whoever does not read for some seconds, and
    /// `out` may be a pager.
    ///
    /// # Errors
    /// No answer, a refusal, or the first error of `out`.
    pub fn copy(&mut self, path: &str, out: &mut dyn Write) -> Result<(), DirectorError> {
        self.stream("GET", path, Bytes::new(), &mut |part| out.write_all(part))
    }

    /// Gives the lines of an answer, JSON each, to `each` as they come.
    fn lines<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        path: &str,
        body: Bytes,
        each: &mut dyn FnMut(T) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        let mut begun = Vec::new();
        let bad = |error: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        self.stream(method, path, body, &mut |mut part| {
            while let Some(end) = part.iter().position(|&byte| byte == b'\n') {
                let line = if begun.is_empty() {
                    &part[..end]
                } else {
                    begun.extend_from_slice(&part[..end]);
                    &begun[..]
                };
                if !line.is_empty() {
                    each(serde_json::from_slice(line).map_err(bad)?)?;
                }
                begun.clear();
                part = &part[end + 1..];
            }
            begun.extend_from_slice(part);
            Ok(())
        })
    }

    /// Gives each line of a trace to `each`, as it comes.
    ///
    /// # Errors
    /// As [`Client::copy`].
    pub fn trace(
        &mut self,
        query: &TraceQuery,
        each: &mut dyn FnMut(TraceLine) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("GET", &format!("/v1/trace{}", query.query()), Bytes::new(), each)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        path: &str,
        body: Bytes,
    ) -> Result<T, DirectorError> {
        let this = &*self;
        let answer = this.runtime.block_on(async {
            let response = this.send(method, path, body).await?;
            this.within(response.into_body().collect()).await
        })?;
        serde_json::from_slice(&answer.to_bytes()).map_err(|error| self.bad_answer(error))
    }

    fn stream(
        &mut self,
        method: &'static str,
        path: &str,
        body: Bytes,
        each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        let this = &*self;
        let (parts, received) = mpsc::channel::<Bytes>();
        let read = async move {
            let mut body = this.send(method, path, body).await?.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| this.bad_answer(error))?;
                if let Ok(part) = frame.into_data()
                    && parts.send(part).is_err()
                {
                    // Nobody wants the rest.
                    break;
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let reader = scope.spawn(|| this.runtime.block_on(read));
            let given_on = received.iter().try_for_each(|part| each(&part));
            drop(received);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            given_on?;
            read
        })
    }

    /// Sends a request; a refusal is an error.
    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Response<Incoming>, DirectorError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.bad_answer(error))?;
        // It runs whenever this thread waits for an answer, and ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lbd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| self.bad_answer(error))?;
        let response = self.within(sender.send_request(request)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.within(response.into_body().collect()).await?.to_bytes();
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => Err(DirectorError::Refused(body)),
            Err(_) => Err(self.not_the_api(status)),
        }
    }

    async fn within<T, E: std::fmt::Display>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, DirectorError> {
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|error| self.bad_answer(error)),
            Err(_) => Err(self.bad_answer(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    fn unreachable(&self, error: &io::Error) -> DirectorError {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text).to_owned();
        DirectorError::Unreachable { socket: self.socket.clone(), reason }
    }

    fn not_the_api(&self, status: StatusCode) -> DirectorError {
        self.bad_answer(format!("answers {status} without a reason"))
    }

    fn bad_answer(&self, reason: impl std::fmt::Display) -> DirectorError {
        DirectorError::BadAnswer { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

fn one_service(address: ServiceAddress) -> String {
    format!("service={}", address.to_string().replace('[', "%5B").replace(']', "%5D"))
}

impl Director for Client {
    fn run(&mut self, batch: Batch) -> Result<BatchReply, DirectorError> {
        self.post("/v1/commands", &batch)
    }

    fn services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        let query = only.map_or(String::new(), |address| format!("?{}", one_service(address)));
        Ok(self.get::<ServicesReply>(&format!("/v1/services{query}"))?.services)
    }

    fn whole_services(&mut self, only: Option<ServiceAddress>) -> Result<Vec<ServiceView>, DirectorError> {
        let which = only.map_or(String::new(), |address| format!("&{}", one_service(address)));
        Ok(self.get::<ServicesReply>(&format!("/v1/services?keys=true{which}"))?.services)
    }

    fn timeouts(&mut self) -> Result<Timeouts, DirectorError> {
        self.get("/v1/timeouts")
    }

    fn sync_daemons(&mut self) -> Result<Vec<SyncDaemon>, DirectorError> {
        self.get("/v1/sync")
    }

    fn connections(
        &mut self,
        filter: &ConnectionFilter,
        each: &mut dyn FnMut(Connection) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("GET", &format!("/v1/connections{}", filter.query()), Bytes::new(), each)
    }
}

impl Tracker for Client {
    fn tracked(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(Tracked) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("GET", &format!("/v1/conntrack{}", filter.query()), Bytes::new(), each)
    }

    fn end_tracked(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(Tracked) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("DELETE", &format!("/v1/conntrack{}", filter.query()), Bytes::new(), each)
    }

    fn change_tracked(
        &mut self,
        filter: &Filter,
        change: &ConntrackChange,
        each: &mut dyn FnMut(Tracked) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        let body = serde_json::to_vec(change).map_err(|error| self.bad_answer(error))?;
        self.lines("PATCH", &format!("/v1/conntrack{}", filter.query()), body.into(), each)
    }

    fn begin_tracked(&mut self, new: &ConntrackNew) -> Result<(), DirectorError> {
        let _: ConntrackNew = self.post("/v1/conntrack", new)?;
        Ok(())
    }

    fn expected(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(Expectation) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("GET", &format!("/v1/conntrack/expectations{}", filter.query()), Bytes::new(), each)
    }

    fn end_expected(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(Expectation) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("DELETE", &format!("/v1/conntrack/expectations{}", filter.query()), Bytes::new(), each)
    }

    fn announce(&mut self, new: &ExpectationNew) -> Result<(), DirectorError> {
        let _: ExpectationNew = self.post("/v1/conntrack/expectations", new)?;
        Ok(())
    }

    fn expectation_events(
        &mut self,
        filter: &ExpectationFilter,
        each: &mut dyn FnMut(ExpectationEvent) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        let path = format!("/v1/conntrack/expectations/events{}", filter.query());
        self.lines("GET", &path, Bytes::new(), each)
    }

    fn events(
        &mut self,
        filter: &Filter,
        each: &mut dyn FnMut(ConntrackEvent) -> io::Result<()>,
    ) -> Result<(), DirectorError> {
        self.lines("GET", &format!("/v1/conntrack/events{}", filter.query()), Bytes::new(), each)
    }

    fn count(&mut self) -> Result<u64, DirectorError> {
        Ok(self.get::<ConntrackCount>("/v1/conntrack/count")?.count)
    }

    fn statistics(&mut self) -> Result<Vec<ConntrackStatistics>, DirectorError> {
        self.get("/v1/conntrack/statistics")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::*;
    use crate::api::types::{Command, ErrorKind, OnError};

    /// A daemon that gives one answer and says what it was asked.
    fn daemon(answer: String) -> (tempfile::TempDir, Client, JoinHandle<String>) {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("api.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let asked = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let start = head.len();
                reader.read_line(&mut head).expect("a line");
                if let Some(value) = head[start..].strip_prefix("content-length: ") {
                    length = value.trim().parse().expect("a length");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            (&stream).write_all(answer.as_bytes()).expect("the client listens");
            format!("{}|{}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body))
        });
        let client = Client::new(&socket).expect("a client");
        (directory, client, asked)
    }

    fn whole(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_batch_is_one_request() {
        let (_directory, mut client, asked) = daemon(whole("200 OK", "{\"done\":1,\"failed\":[]}"));
        let reply = client.run(Batch { commands: vec![Command::Flush], on_error: OnError::Continue });
        assert_eq!(reply.expect("an answer"), BatchReply { done: 1, failed: Vec::new() });
        assert_eq!(
            asked.join().expect("ends"),
            "POST /v1/commands HTTP/1.1|{\"commands\":[\"flush\"],\"on_error\":\"continue\"}"
        );
    }

    #[test]
    fn a_refusal_keeps_its_kind() {
        let (_directory, mut client, asked) =
            daemon(whole("404 Not Found", "{\"error\":\"no_such_service\",\"message\":\"gone\"}"));
        let address = "udp/[2001:db8::1]:53".parse().expect("valid");
        match client.services(Some(address)) {
            Err(DirectorError::Refused(body)) => assert_eq!(body.error, ErrorKind::NoSuchService),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            asked.join().expect("ends"),
            "GET /v1/services?service=udp/%5B2001:db8::1%5D:53 HTTP/1.1|"
        );
    }

    #[test]
    fn connections_come_one_by_one_however_they_are_cut() {
        let parts = [
            "{\"protocol\":\"udp\",\"expires\":9,\"state\":\"UD",
            "P\",\"client\":\"10.0.0.1:1\",\"virtual\":\"10.0.0.2:2\",\"destination\":\"10.0.0.3:3\"}\n{\"protocol\":",
            "\"tcp\",\"expires\":60,\"state\":\"SYN_RECV\",\"client\":\"[::1]:1\",\"virtual\":\"[::2]:2\",",
            "\"destination\":\"[::3]:3\"}\n",
            "",
        ];
        let chunks = parts.map(|part| format!("{:x}\r\n{part}\r\n", part.len())).concat();
        let (_directory, mut client, asked) =
            daemon(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
        let mut seen = Vec::new();
        let done = client.connections(&ConnectionFilter::default(), &mut |connection| {
            seen.push(format!("{} {}", connection.state, connection.destination));
            Ok(())
        });
        done.expect("all read");
        assert_eq!(seen, ["UDP 10.0.0.3:3", "SYN_RECV [::3]:3"]);
        assert_eq!(asked.join().expect("ends"), "GET /v1/connections HTTP/1.1|");
    }

    #[test]
    fn no_daemon_is_one_line_that_names_the_socket() {
        let mut client = Client::new(Path::new("/nonexistent/api.sock")).expect("a client");
        let error = client.timeouts().expect_err("nobody there").to_string();
        assert_eq!(error, "no lbd at /nonexistent/api.sock: No such file or directory");
    }
}
