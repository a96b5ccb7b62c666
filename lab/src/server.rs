//! Real servers: nginx that answers with its name, and a UDP echo that does the same.

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::Lab;
use crate::wait;

/// The port that the nginx servers listen on; the virtual service's is 80, so that ports are translated too.
pub const HTTP_PORT: u16 = 8080;
/// Other ports of theirs, which read the PROXY protocol and answer with what that says: the client's address and port, and the
/// address that it asked for. Two services have no port in common: a client may come to both from one port of its own, and of two
/// such connections to one real server only the newer lives.
pub const PROXY_PORTS: [u16; 2] = [8081, 8082];
/// The port of the UDP echo.
pub const ECHO_PORT: u16 = 5353;

/// One nginx: `GET /` answers with the server's role and a newline, `GET /files/…` with a file of the lab's
/// `files` directory.
#[derive(Debug)]
pub struct Nginx {
    role: String,
    process: Process,
    access_log: PathBuf,
}

impl Nginx {
    /// Starts it in the namespace and waits until it accepts connections.
    ///
    /// # Errors
    /// What nginx says.
    pub fn start(lab: &Lab, namespace: &Namespace) -> Result<Nginx> {
        let mut nginx = Nginx::spawn(lab, namespace)?;
        nginx.until_ready(namespace)?;
        Ok(nginx)
    }

    /// Starts one on each real server of the lab, and waits for all of them.
    ///
    /// # Errors
    /// What the first that fails says.
    pub fn start_all(lab: &Lab) -> Result<Vec<Nginx>> {
        let mut all =
            lab.servers().iter().map(|namespace| Nginx::spawn(lab, namespace)).collect::<Result<Vec<_>>>()?;
        for (nginx, namespace) in all.iter_mut().zip(lab.servers()) {
            nginx.until_ready(namespace)?;
        }
        Ok(all)
    }

    fn spawn(lab: &Lab, namespace: &Namespace) -> Result<Nginx> {
        let role = namespace.role();
        let dir = lab.dir().join(role);
        let files = lab.dir().join("files");
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&files)?;
        let access_log = dir.join("access.log");
        let config = dir.join("nginx.conf");
        fs::write(&config, nginx_config(role, &dir, &files, &access_log))?;
        let config = config.to_str().context("the lab's directory is not UTF-8")?;
        let process =
            Process::spawn(namespace, lab.dir(), &format!("nginx-{role}"), "nginx", &["-c", config])?;
        Ok(Nginx { role: role.to_owned(), process, access_log })
    }

    fn until_ready(&mut self, namespace: &Namespace) -> Result<()> {
        let Nginx { role, process, .. } = self;
        wait::until(&format!("nginx on {role}"), wait::PATIENCE, || {
            if let Ok(Some(status)) = process.exited() {
                return Some(Err(anyhow!("nginx on {role} ended with {status}: {}", process.log())));
            }
            let address = SocketAddr::from((Ipv6Addr::LOCALHOST, HTTP_PORT));
            let connected = namespace.enter(|| TcpStream::connect(address).is_ok());
            matches!(connected, Ok(true)).then_some(Ok(()))
        })?
    }

    /// `s1`, `s2` …
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The requests that it has answered: one client address a line. nginx writes them with a delay of 100 ms.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn clients_served(&self) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.access_log)
            .with_context(|| format!("reading {}", self.access_log.display()))?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    pub(crate) fn leave_running(self) {
        self.process.leave_running();
    }
}

fn nginx_config(role: &str, dir: &Path, files: &Path, access_log: &Path) -> String {
    let (dir, files, access_log) = (dir.display(), files.display(), access_log.display());
    let [proxy, another] = PROXY_PORTS;
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  log_format client '$remote_addr';
  access_log {access_log} client buffer=64k flush=100ms;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_requests 1000000;
  client_max_body_size 1g;
  server {{
    listen {HTTP_PORT} backlog=4096;
    listen [::]:{HTTP_PORT} backlog=4096;
    location / {{ return 200 '{role}\\n'; }}
    location /files/ {{ alias {files}/; }}
  }}
  server {{
    listen {proxy} proxy_protocol backlog=4096;
    listen [::]:{proxy} proxy_protocol backlog=4096;
    listen {another} proxy_protocol backlog=4096;
    listen [::]:{another} proxy_protocol backlog=4096;
    location / {{ return 200 '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr\\n'; }}
    location /files/ {{ alias {files}/; }}
  }}
}}
"
    )
}

/// A UDP server that answers each datagram with `<role> ` and what it got, from the address it was sent to.
#[derive(Debug)]
pub struct UdpEcho {
    socket: UdpSocket,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts it in the namespace, on [`ECHO_PORT`], IPv4 and IPv6.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(namespace: &Namespace) -> Result<UdpEcho> {
        UdpEcho::start_on(namespace, ECHO_PORT)
    }

    /// As [`UdpEcho::start`], on another port.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start_on(namespace: &Namespace, port: u16) -> Result<UdpEcho> {
        let socket = namespace.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let role = namespace.role().to_owned();
        let own = socket.try_clone()?;
        let thread = std::thread::Builder::new().name(format!("echo-{role}")).spawn(move || {
            let mut datagram = vec![0; 65536];
            loop {
                let received = own.recv_from(&mut datagram);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Nothing in time, or an ICMP error about an earlier answer: on to the next datagram.
                let Ok((length, from)) = received else { continue };
                let mut answer = format!("{role} ").into_bytes();
                answer.extend_from_slice(&datagram[..length]);
                let _lost_like_any_datagram = own.send_to(&answer, from);
            }
        })?;
        Ok(UdpEcho { socket, stop, thread: Some(thread) })
    }

    /// Starts one on each real server of the lab.
    ///
    /// # Errors
    /// What the first that fails says.
    pub fn start_all(lab: &Lab) -> Result<Vec<UdpEcho>> {
        lab.servers().iter().map(UdpEcho::start).collect()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It looks now, not when it has waited in vain.
        let _looks_later = self
            .socket
            .local_addr()
            .and_then(|own| self.socket.send_to(&[], (Ipv6Addr::LOCALHOST, own.port())));
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A TCP server that reads until the client has sent everything, then answers with how many bytes that was.
#[derive(Debug)]
pub struct Sink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts it in the namespace, on an address and port of its own; it serves one client after the other.
    ///
    /// # Errors
    /// When the address is taken or not there.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Sink> {
        let listener = namespace.enter(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let _the_clients_loss = swallow(stream);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        })?;
        Ok(Sink { stop, thread: Some(thread) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(wait::PATIENCE))?;
    let bytes = std::io::copy(&mut stream, &mut std::io::sink())?;
    stream.write_all(bytes.to_string().as_bytes())
}

/// Writes a file of `mebibytes` that all nginx servers serve as `/files/<name>`; no two of its lines are the same.
///
/// # Errors
/// When the disk is full.
pub fn serve_file(lab: &Lab, name: &str, mebibytes: usize) -> Result<Vec<u8>> {
    if mebibytes > 256 {
        bail!("{name}: {mebibytes} MiB is outside 0..=256");
    }
    let mut content = Vec::with_capacity(mebibytes << 20);
    let mut line: u64 = 0x9E37_79B9_7F4A_7C15;
    while content.len() < mebibytes << 20 {
        line = line.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        content.extend_from_slice(&line.to_be_bytes());
    }
    let dir = lab.dir().join("files");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), &content)?;
    Ok(content)
}
