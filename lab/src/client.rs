//! What clients do: fetch pages, send datagrams, ping, load.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;
use crate::wait::PATIENCE;

/// After so long a datagram without an answer is sent again: it, or its answer, may be lost.
const AGAIN: Duration = Duration::from_secs(1);
/// Where nobody is to answer.
const IN_VAIN: Duration = Duration::from_millis(300);

/// `http://192.0.2.10:80/…` or, for IPv6, with brackets.
pub fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, port))
}

/// Fetches a page with curl, over a connection of its own.
///
/// # Errors
/// What curl says, or when it took longer than 30 s; any status other than 200.
pub fn curl(client: &Namespace, url: &str) -> Result<String> {
    client.run(60, "curl", &["--silent", "--show-error", "--fail", "--max-time", "30", url])
}

/// Fetches the page `/` over a connection of its own, without a program for it.
///
/// # Errors
/// The socket's: no connection, no answer in time.
pub fn fetch(client: &Namespace, server: SocketAddr) -> io::Result<String> {
    let page = KeptOpen::connect(client, server)?.get("/")?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Sends `payload` from a new socket and returns the first answer; sends it again where none comes.
///
/// # Errors
/// The socket's: no answer to any, or what an ICMP error made of it (`ConnectionRefused` …).
pub fn ask(client: &Namespace, server: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    exchange(client, server, payload, (PATIENCE.as_secs() / AGAIN.as_secs(), AGAIN))
}

/// The same, sent once; the answer is to come within a second.
///
/// # Errors
/// The socket's.
pub fn ask_once(client: &Namespace, server: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    exchange(client, server, payload, (1, AGAIN))
}

/// The same for what is not to be answered: it is sent once, and nothing is to come in many times what an answer takes.
///
/// # Errors
/// The socket's, as wanted.
pub fn ask_in_vain(client: &Namespace, server: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    exchange(client, server, payload, (1, IN_VAIN))
}

/// Who answers on a connected socket, when asked several times if need be.
///
/// # Errors
/// Nobody did, to 120 datagrams.
pub fn who_answers(socket: &UdpSocket) -> Result<String> {
    let mut answer = [0; 64];
    for _ in 0..120 {
        // An ICMP error about an earlier datagram is no answer either.
        if socket.send(b"?").is_ok()
            && let Ok(length) = socket.recv(&mut answer)
        {
            return Ok(String::from_utf8_lossy(&answer[..length]).into_owned());
        }
    }
    bail!("no answer to 120 datagrams")
}

fn exchange(
    client: &Namespace,
    server: SocketAddr,
    payload: &[u8],
    (tries, patience): (u64, Duration),
) -> io::Result<Vec<u8>> {
    let exchange = client.enter(|| {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(server)?;
        let mut answer = vec![0; 65536];
        let mut outcome = Err(io::ErrorKind::TimedOut.into());
        for _ in 0..tries {
            outcome = socket.send(payload).and_then(|_| socket.recv(&mut answer));
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        answer.truncate(outcome?);
        Ok(answer)
    });
    exchange.map_err(io::Error::other)?
}

/// Connects from an address of this thread's namespace, which has it.
///
/// # Errors
/// The socket's.
pub fn connect_from(from: impl Into<IpAddr>, server: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from.into(), 0).into())?;
    socket.connect_timeout(&server.into(), limit)?;
    Ok(socket.into())
}

/// An HTTP connection that is kept open and used again.
#[derive(Debug)]
pub struct KeptOpen {
    stream: BufReader<TcpStream>,
}

impl KeptOpen {
    /// Connects from the client's namespace.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect(client: &Namespace, server: SocketAddr) -> io::Result<KeptOpen> {
        KeptOpen::connect_within(client, server, PATIENCE)
    }

    /// The same, with a limit of the caller's own.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect_within(client: &Namespace, server: SocketAddr, limit: Duration) -> io::Result<KeptOpen> {
        KeptOpen::of(client.enter(|| TcpStream::connect_timeout(&server, limit)))
    }

    /// The same, from one of the client's addresses.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect_from(
        client: &Namespace,
        from: impl Into<IpAddr>,
        server: SocketAddr,
        limit: Duration,
    ) -> io::Result<KeptOpen> {
        let from = from.into();
        KeptOpen::of(client.enter(|| connect_from(from, server, limit)))
    }

    fn of(connected: Result<io::Result<TcpStream>>) -> io::Result<KeptOpen> {
        let stream = connected.map_err(io::Error::other)??;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(KeptOpen { stream: BufReader::new(stream) })
    }

    /// Its own end, as the server sees it.
    ///
    /// # Errors
    /// The socket's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().local_addr()
    }

    /// How long an answer is waited for.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_patience(&self, limit: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(limit))
    }

    /// Asks for a page and reads it whole.
    ///
    /// # Errors
    /// The socket's: no answer in time, connection closed.
    pub fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.ask(path)?;
        self.read(&mut |_| ())
    }

    /// Asks for a page without reading it.
    ///
    /// # Errors
    /// The socket's.
    pub fn ask(&mut self, path: &str) -> io::Result<()> {
        // In one piece: TCP would keep the second until the first is acknowledged (RFC 9293 §3.7.4), which the other end delays.
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())
    }

    /// Reads the answer to [`KeptOpen::ask`]; `progress` is told of every 64 KiB how many bytes there are so far.
    ///
    /// # Errors
    /// The socket's: no answer in time, connection closed.
    pub fn read(&mut self, progress: &mut dyn FnMut(usize)) -> io::Result<Vec<u8>> {
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("Content-Length:") {
                length = value.trim().parse().ok();
            }
        }
        let length: usize = length.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
        let mut body = vec![0; length];
        let mut done = 0;
        for piece in body.chunks_mut(65536) {
            self.stream.read_exact(piece)?;
            done += piece.len();
            progress(done);
        }
        Ok(body)
    }
}

/// How many of `count` echo requests were answered within ten seconds each, or `extra` says otherwise (`-W`).
///
/// # Errors
/// When ping cannot be run.
pub fn ping(client: &Namespace, address: IpAddr, count: u32, extra: &[&str]) -> Result<u32> {
    let (count, address) = (count.to_string(), address.to_string());
    let mut arguments = vec!["-n", "-q", "-W", "10", "-i", "0.02", "-c", &count];
    arguments.extend(extra);
    arguments.push(&address);
    let output = client.output(60, "ping", &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.split(", ").find_map(|part| part.strip_suffix(" received")?.parse().ok()))
        .with_context(|| format!("ping: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What `wrk` measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    pub requests_per_second: f64,
    /// Latency at the median, milliseconds.
    pub p50_ms: f64,
    /// Latency at the 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Answers other than 2xx and socket errors, as wrk prints them; empty when there were none.
    pub errors: String,
}

/// How wrk uses its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Kept open, for one request after the other.
    KeptOpen,
    /// A new one for each request.
    OneRequest,
}

/// Loads a URL with wrk: one thread, `connections` at a time, for `seconds`.
///
/// # Errors
/// What wrk says.
pub fn wrk(client: &Namespace, url: &str, connections: u16, seconds: u16, reuse: Reuse) -> Result<Load> {
    let (connections, duration) = (connections.to_string(), format!("{seconds}s"));
    let mut arguments = vec!["-t1", "-c", &connections, "-d", &duration, "--latency", "--timeout", "30s"];
    if reuse == Reuse::OneRequest {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(url);
    parse_wrk(&client.run(u32::from(seconds) + 60, "wrk", &arguments)?)
}

fn parse_wrk(text: &str) -> Result<Load> {
    let value =
        |label: &str| text.lines().find_map(|line| Some(line.trim().strip_prefix(label)?.trim().to_owned()));
    let Some(rate) = value("Requests/sec:").and_then(|rate| rate.parse().ok()) else {
        bail!("wrk did not say how many requests a second: {text}");
    };
    let errors: Vec<String> =
        ["Socket errors:", "Non-2xx or 3xx responses:"].iter().filter_map(|label| value(label)).collect();
    Ok(Load {
        requests_per_second: rate,
        p50_ms: value("50%").and_then(|text| milliseconds(&text)).context("wrk printed no median")?,
        p99_ms: value("99%").and_then(|text| milliseconds(&text)).context("wrk printed no 99 %")?,
        errors: errors.join("; "),
    })
}

/// wrk's `236.00us`, `1.02ms`, `1.50s` or `2.00m`.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (value, unit) = text.split_at(unit);
    let value: f64 = value.parse().ok()?;
    match unit {
        "us" => Some(value / 1e3),
        "ms" => Some(value),
        "s" => Some(value * 1e3),
        "m" => Some(value * 6e4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read_with_its_errors() {
        let text = "Running 1s test @ http://192.0.2.10:80/
  1 threads and 10 connections
  Latency Distribution
     50%  236.00us
     75%  310.00us
     90%  427.00us
     99%    1.02ms
  30110 requests in 1.00s, 5.02MB read
  Socket errors: connect 0, read 0, write 0, timeout 3
Requests/sec:  30072.81
Transfer/sec:      5.02MB
";
        let load = parse_wrk(text).unwrap();
        assert_eq!(
            load,
            Load {
                requests_per_second: 30072.81,
                p50_ms: 0.236,
                p99_ms: 1.02,
                errors: "connect 0, read 0, write 0, timeout 3".to_owned(),
            }
        );
    }

    #[test]
    fn urls_of_ipv6_addresses_have_brackets() {
        assert_eq!(url("2001:db8::10".parse().unwrap(), 80, "/x"), "http://[2001:db8::10]:80/x");
    }
}
