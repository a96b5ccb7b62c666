//! Goal: rules that operators have mean the same here as in the kernel: of the same traffic the same connections come through, and the far end sees
//! the same addresses.
//! Method: two labs of the same wires, one with the kernel's netfilter in the director's place, one with `lbd`, and two more for half of it; both are given each of
//! the rulesets below by `iptables-restore`, then the same connections are tried in both and what became of each is compared.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::topology::{self, CLIENT, DIRECTOR, GATEWAY, LAN_LINK, WAN_LINK};
use lab::{Director, KernelDirector, Lab, LbdPlan, Namespace, Plan, Tag, client};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

/// How long an answer is waited for; what is dropped costs as much. Where an outcome is not the kernel's, the ruleset is loaded and all of it
/// tried once more in both labs, with more patience: one packet may be lost, and a machine that others use as well may stand still for a
/// moment. A rule that means something else does so each time.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(1000), Duration::from_millis(4000)];
/// Who listens on these tells a client what address it sees.
const TCP_PORTS: [u16; 6] = [22, 80, 443, 2222, 8080, 9000];
const UDP_PORT: u16 = 53;

/// A host that tells whoever connects what address it sees.
struct Witness {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Witness {
    fn start(namespace: &Namespace) -> Result<Witness> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in TCP_PORTS {
            let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
            listener.set_nonblocking(true)?;
            let stop = stop.clone();
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, peer)) => drop(std::thread::spawn(move || tell(stream, peer))),
                        Err(_) => sleep(Duration::from_millis(2)),
                    }
                }
            }));
        }
        let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UDP_PORT)))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let of_udp = stop.clone();
        threads.push(std::thread::spawn(move || {
            let mut question = [0; 256];
            while !of_udp.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            }
        }));
        Ok(Witness { stop, threads })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Says hello with the peer's address, then answers each line, until the peer goes.
fn tell(mut stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut line = [0; 256];
    while let Ok(1..) = stream.read(&mut line) {
        if stream.write_all(peer.ip().to_string().as_bytes()).is_err() {
            return;
        }
    }
}

/// Who tries to reach somebody.
#[derive(Clone, Copy, Debug)]
enum Who {
    Client,
    S1,
    S2,
    Director,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Tcp(u16),
    /// A connection that says this once it stands.
    Says(u16, &'static str),
    /// So many connections, one after the other, all of them kept open until the last was tried.
    Held(u16, usize),
    Udp,
    Ping,
    /// So many pings, one after the other.
    Pings(u32),
}

type Try = (Who, Ipv4Addr, What);

/// As [`TcpStream::connect_timeout`], without its fault: the kernel wakes who polls the socket when it queues an ICMP error
/// (`ip_icmp_error`), before it sets the socket's error, and who asks in between is told none. Here it is asked again.
fn connect(to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        done => done?,
    }
    let begun = Instant::now();
    loop {
        let is_over = begun.elapsed() >= patience;
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        if socket.peer_addr().is_ok() {
            socket.set_nonblocking(false)?;
            return Ok(socket.into());
        }
        if is_over {
            return Err(ErrorKind::TimedOut.into());
        }
        sleep(Duration::from_micros(200));
    }
}

/// What became of it, in words.
fn outcome(lab: &Lab, (who, to, what): Try, patience: Duration) -> Result<String> {
    let namespace = match who {
        Who::Client => lab.client(),
        Who::S1 => &lab.servers()[0],
        Who::S2 => &lab.servers()[1],
        Who::Director => lab.director(),
    };
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".to_owned(),
        ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        _ => error.to_string(),
    };
    let connect = |port| connect(SocketAddr::new(to.into(), port), patience);
    let ask = |mut stream: &TcpStream, words: &str| -> std::io::Result<String> {
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(words.as_bytes())?;
        let mut answer = [0; 64];
        let len = stream.read(&mut answer)?;
        Ok(format!("seen as {}", String::from_utf8_lossy(&answer[..len])))
    };
    let pings = |count| {
        let limit = patience.as_secs_f32().to_string();
        let got = client::ping(namespace, IpAddr::V4(to), count, &["-i", "0.05", "-W", &limit])?;
        Ok(format!("{got} of {count}"))
    };
    match what {
        What::Tcp(port) => {
            namespace.enter(|| connect(port).and_then(|stream| ask(&stream, "?\n")).unwrap_or_else(failed))
        }
        What::Says(port, words) => {
            namespace.enter(|| connect(port).and_then(|stream| ask(&stream, words)).unwrap_or_else(failed))
        }
        What::Held(port, count) => namespace.enter(|| {
            let open = |_| connect(port).and_then(|stream| ask(&stream, "?\n").map(|_| stream));
            let held: Vec<_> = (0..count).map(open).collect();
            format!("{} of {count}", held.iter().filter(|stream| stream.is_ok()).count())
        }),
        What::Udp => namespace.enter(|| {
            let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
                socket.connect((to, UDP_PORT))?;
                socket.set_read_timeout(Some(patience))?;
                socket.send(b"?")?;
                let mut answer = [0; 64];
                let len = socket.recv(&mut answer)?;
                Ok(format!("seen as {}", String::from_utf8_lossy(&answer[..len])))
            });
            asked.unwrap_or_else(failed)
        }),
        What::Ping => pings(1),
        What::Pings(count) => pings(count),
    }
}

const S1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
const S2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);

/// What is tried under every ruleset.
const USUAL: &[Try] = &[
    (Who::Client, S1, What::Tcp(22)),
    (Who::Client, S1, What::Tcp(80)),
    (Who::Client, S1, What::Tcp(7)),
    (Who::Client, S1, What::Udp),
    (Who::Client, S1, What::Ping),
    (Who::S1, CLIENT, What::Tcp(443)),
    (Who::S2, CLIENT, What::Tcp(80)),
    (Who::S1, CLIENT, What::Udp),
    (Who::S1, CLIENT, What::Ping),
    (Who::Client, DIRECTOR, What::Tcp(22)),
    (Who::Client, DIRECTOR, What::Tcp(80)),
    (Who::Client, DIRECTOR, What::Ping),
    (Who::Director, CLIENT, What::Tcp(80)),
    (Who::S1, GATEWAY, What::Tcp(22)),
];

/// A name, the rules (`{wan}` and `{lan}` are the director's interfaces), and what is tried besides the usual.
type Ruleset = (&'static str, &'static str, &'static [Try]);

const RULESETS: &[Ruleset] = &[
    ("none", "*filter\nCOMMIT\n", &[]),
    (
        "white list",
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -s 192.0.2.0/24 -d 10.0.0.11/32 -p tcp -m tcp --dport 80 -j ACCEPT\nCOMMIT\n",
        &[],
    ),
    (
        "black list",
        "*filter\n-A FORWARD -s 10.0.0.12/32 -j DROP\n-A FORWARD -d 10.0.0.11/32 -p tcp -m tcp --dport 22 -j DROP\nCOMMIT\n",
        &[(Who::Client, S2, What::Tcp(22))],
    ),
    (
        "network firewall with state",
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i {lan} -o {wan} -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n",
        &[],
    ),
    (
        "source NAT for a private network",
        "*nat\n-A POSTROUTING -s 10.0.0.0/24 -o {wan} -j SNAT --to-source 192.0.2.1\nCOMMIT\n",
        &[],
    ),
    ("masquerade", "*nat\n-A POSTROUTING -o {wan} -j MASQUERADE\nCOMMIT\n", &[]),
    ("masquerade one server", "*nat\n-A POSTROUTING -s 10.0.0.12 -o {wan} -j MASQUERADE\nCOMMIT\n", &[]),
    (
        "destination NAT to an inner server",
        "*nat\n-A PREROUTING -i {wan} -d 192.0.2.1/32 -p tcp -m tcp --dport 9000 -j DNAT --to-destination 10.0.0.11:80\nCOMMIT\n",
        &[(Who::Client, DIRECTOR, What::Tcp(9000))],
    ),
    (
        "destination NAT of an address",
        "*nat\n-A PREROUTING -d 192.0.2.10/32 -j DNAT --to-destination 10.0.0.12\nCOMMIT\n",
        &[
            (Who::Client, topology::VIP, What::Tcp(22)),
            (Who::Client, topology::VIP, What::Udp),
            (Who::Client, topology::VIP, What::Ping),
        ],
    ),
    (
        "destination and source NAT",
        "*nat\n-A PREROUTING -i {wan} -p tcp -m tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22\n-A POSTROUTING -o {lan} -j MASQUERADE\nCOMMIT\n",
        &[(Who::Client, DIRECTOR, What::Tcp(2222))],
    ),
    (
        "REDIRECT 80 to 8080",
        "*nat\n-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\nCOMMIT\n",
        &[],
    ),
    (
        "REDIRECT what is for others",
        "*nat\n-A PREROUTING -i {lan} -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 9000\nCOMMIT\n",
        &[],
    ),
    ("NETMAP", "*nat\n-A PREROUTING -d 192.0.2.64/26 -j NETMAP --to 10.0.0.0/26\nCOMMIT\n", &[]),
    (
        "a chain for web traffic",
        "*filter\n:web - [0:0]\n-A FORWARD -p tcp -m multiport --dports 80,443 -j web\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\n-A web -d 10.0.0.11/32 -j ACCEPT\n-A web -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "goto and return",
        "*filter\n:a - [0:0]\n:b - [0:0]\n-A FORWARD -j a\n-A FORWARD -p icmp -j DROP\n-A a -p udp -g b\n-A a -p icmp -j RETURN\n-A b -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n",
        &[],
    ),
    (
        "limit on ICMP",
        "*filter\n-A FORWARD -p icmp -m limit --limit 1/min --limit-burst 3 -j ACCEPT\n-A FORWARD -p icmp -j DROP\nCOMMIT\n",
        &[(Who::Client, S1, What::Pings(8))],
    ),
    (
        "TCP flags",
        "*filter\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST,ACK,FIN SYN -d 10.0.0.11 --dport 22 -j DROP\n-A FORWARD -p tcp -m tcp --tcp-flags ALL NONE -j DROP\nCOMMIT\n",
        &[],
    ),
    ("syn", "*filter\n-A FORWARD -i {wan} -p tcp --syn -j REJECT\nCOMMIT\n", &[]),
    (
        "string",
        "*filter\n-A FORWARD -p tcp -m string --string \"forbidden\" --algo bm -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        &[
            (Who::Client, S1, What::Says(80, "this is forbidden\n")),
            (Who::Client, S1, What::Says(80, "this is allowed\n")),
        ],
    ),
    (
        "time, never",
        "*filter\n-A FORWARD -p udp -m time --datestop 2000-01-01T00:00:00 -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "time, always",
        "*filter\n-A FORWARD -p udp -m time --datestart 2000-01-01T00:00:00 -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "reject with an ICMP error",
        "*filter\n-A FORWARD -p tcp -j REJECT --reject-with icmp-host-unreachable\n-A FORWARD -p udp -j REJECT --reject-with icmp-net-unreachable\nCOMMIT\n",
        &[],
    ),
    ("reject to the host", "*filter\n-A INPUT -p tcp -j REJECT\n-A INPUT -p icmp -j DROP\nCOMMIT\n", &[]),
    (
        "reject of the host",
        "*filter\n-A OUTPUT -p tcp --syn -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        &[],
    ),
    ("drop of the host", "*filter\n-A OUTPUT -p tcp --dport 80 -j DROP\nCOMMIT\n", &[]),
    (
        "marks",
        "*mangle\n-A PREROUTING -p tcp -m tcp --dport 22 -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n*filter\n-A FORWARD -m mark --mark 0x7 -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "connection marks",
        "*mangle\n-A PREROUTING -i {wan} -p tcp -m tcp --dport 22 -j CONNMARK --set-xmark 0x9/0xffffffff\nCOMMIT\n*filter\n-A FORWARD -m connmark --mark 0x9 -o {wan} -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "untracked",
        "*raw\n-A PREROUTING -p udp -j CT --notrack\nCOMMIT\n*filter\n-A FORWARD -m state --state UNTRACKED -j DROP\nCOMMIT\n",
        &[],
    ),
    ("raw drop", "*raw\n-A PREROUTING -s 10.0.0.12/32 -j DROP\nCOMMIT\n", &[]),
    ("security drop", "*security\n-A FORWARD -p icmp -j DROP\n-A INPUT -p icmp -j DROP\nCOMMIT\n", &[]),
    (
        "invalid",
        "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -m conntrack --ctstate NEW -p tcp ! --syn -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "addresses by range",
        "*filter\n-A FORWARD -m iprange --src-range 10.0.0.12-10.0.0.20 -j DROP\n-A FORWARD -m iprange ! --dst-range 10.0.0.1-192.0.2.255 -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "negations",
        "*filter\n-A FORWARD ! -s 10.0.0.0/24 ! -p icmp ! -d 10.0.0.11 -j DROP\n-A FORWARD ! -i {lan} -p tcp ! --dport 80 -j DROP\nCOMMIT\n",
        &[],
    ),
    ("wildcard interfaces", "*filter\n-A FORWARD -i l+ -p udp -j DROP\nCOMMIT\n", &[]),
    (
        "ICMP types",
        "*filter\n-A FORWARD -i {wan} -p icmp -m icmp --icmp-type echo-request -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "length",
        "*filter\n-A FORWARD -p icmp -m length --length 0:60 -j ACCEPT\n-A FORWARD -p icmp -j DROP\nCOMMIT\n",
        &[],
    ),
    ("TTL", "*mangle\n-A FORWARD -p icmp -j TTL --ttl-set 1\nCOMMIT\n", &[]),
    (
        "address types",
        "*filter\n-A INPUT -m addrtype --dst-type LOCAL -p tcp --dport 22 -j DROP\nCOMMIT\n",
        &[],
    ),
    (
        "recent",
        "*filter\n-A FORWARD -p icmp -m recent --name seen --update --seconds 60 --hitcount 3 -j DROP\n-A FORWARD -p icmp -m recent --name seen --set -j ACCEPT\nCOMMIT\n",
        &[(Who::Client, S1, What::Pings(6))],
    ),
    (
        "destination NAT of the host",
        "*nat\n-A OUTPUT -p tcp -d 192.0.2.100 --dport 80 -j DNAT --to-destination 10.0.0.11:8080\nCOMMIT\n",
        &[],
    ),
    (
        "ports of a source NAT",
        "*nat\n-A POSTROUTING -p tcp -o {wan} -j SNAT --to-source 192.0.2.1:5000-5010\nCOMMIT\n",
        &[],
    ),
    (
        "connlimit 2 an address",
        "*filter\n-A FORWARD -p tcp --syn --dport 22 -m connlimit --connlimit-above 2 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        &[
            (Who::Client, S1, What::Held(22, 4)),
            (Who::Client, S1, What::Pings(4)),
            // Those are over.
            (Who::Client, S2, What::Held(22, 3)),
        ],
    ),
    (
        "connlimit of a net, by destination",
        "*filter\n-A FORWARD -i {wan} -p tcp -m connlimit --connlimit-upto 3 --connlimit-mask 24 --connlimit-daddr -j ACCEPT\n-A FORWARD -i {wan} -p tcp --syn -j DROP\nCOMMIT\n",
        &[(Who::Client, S1, What::Held(80, 5))],
    ),
    (
        "connlimit of the host",
        "*filter\n-A INPUT -p tcp --syn --dport 22 -m connlimit --connlimit-above 1 --connlimit-mask 0 -j DROP\nCOMMIT\n",
        &[(Who::Client, DIRECTOR, What::Held(22, 3))],
    ),
    (
        "hashlimit by source",
        "*filter\n-A FORWARD -p icmp -m hashlimit --hashlimit-upto 1/min --hashlimit-burst 3 --hashlimit-mode srcip --hashlimit-name pings -j ACCEPT\n-A FORWARD -p icmp -j DROP\nCOMMIT\n",
        &[(Who::Client, S1, What::Pings(8)), (Who::S2, CLIENT, What::Pings(6))],
    ),
    (
        "hashlimit by destination and port",
        "*filter\n-A FORWARD -p tcp --syn -m hashlimit --hashlimit-above 1/hour --hashlimit-burst 2 --hashlimit-mode dstip,dstport --hashlimit-name syns -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        &[
            (Who::Client, S1, What::Tcp(22)),
            (Who::Client, S1, What::Tcp(22)),
            (Who::Client, S2, What::Tcp(22)),
        ],
    ),
    (
        "hashlimit rules of one name",
        "*filter\n-A FORWARD -p icmp -m hashlimit --hashlimit-upto 1/min --hashlimit-burst 6 --hashlimit-mode srcip --hashlimit-name one -j ACCEPT\n-A FORWARD -p icmp -j DROP\n-A FORWARD -p tcp --syn --dport 22 -m hashlimit --hashlimit-upto 30/min --hashlimit-burst 60 --hashlimit-mode dstip --hashlimit-name one -j ACCEPT\n-A FORWARD -p tcp --syn --dport 22 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
        &[
            (Who::Client, S1, What::Pings(2)),
            (Who::Client, S1, What::Tcp(22)),
            (Who::Client, S1, What::Tcp(22)),
        ],
    ),
    (
        "quota",
        "*filter\n-A FORWARD -p icmp -m quota --quota 400 -j ACCEPT\n-A FORWARD -p icmp -j DROP\nCOMMIT\n",
        &[(Who::Client, S1, What::Pings(5))],
    ),
    (
        "rate estimators",
        "*filter\n-A FORWARD -p udp -j RATEEST --rateest-name udp --rateest-interval 250ms --rateest-ewmalog 500ms\n-A FORWARD -p udp -m rateest --rateest udp --rateest-gt --rateest-pps 100000 -j DROP\n-A FORWARD -p icmp -m rateest --rateest udp --rateest-lt --rateest-bps 100mbit -j DROP\nCOMMIT\n",
        &[],
    ),
    ("audit", "*filter\n-A FORWARD -p udp -j AUDIT --type drop\n-A FORWARD -p udp -j DROP\nCOMMIT\n", &[]),
    (
        "address types of an interface",
        "*filter\n-A INPUT -i {wan} -p tcp --dport 22 -m addrtype --dst-type LOCAL --limit-iface-in -j DROP\n-A INPUT -i {lan} -p tcp --dport 22 -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP\nCOMMIT\n",
        &[(Who::S1, DIRECTOR, What::Tcp(22))],
    ),
    ("u32", "*filter\n-A FORWARD -m u32 --u32 \"6&0xFF=17\" -j DROP\nCOMMIT\n", &[]),
    ("TCP MSS", "*mangle\n-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 536\nCOMMIT\n", &[]),
];

/// Rules with these words remember what came before: under them one is tried after the other, else all at once.
const REMEMBERING: [&str; 3] = ["limit", "quota", "recent"];

/// Every table empty, every policy ACCEPT.
const NOTHING: &str = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n\
    *mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n\
    *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n\
    *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n\
    *security\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

/// One of the two labs, with who listens in it.
struct Side {
    lab: Lab,
    /// `None`: the kernel.
    director: Option<Director>,
    _kernel: Option<KernelDirector>,
    _witnesses: Vec<Witness>,
}

impl Side {
    fn up(tag: Tag, is_kernel: bool) -> Result<Side> {
        let lab = Lab::with(&Plan { tag, servers: 2, ..Plan::default() })?;
        let (director, kernel) = if is_kernel {
            // It tells nobody more than once a second else.
            lab.director().sysctl("ipv4/icmp_ratelimit", "0")?;
            (None, Some(KernelDirector::without_rules(&lab)?))
        } else {
            let plan = LbdPlan { services: String::new(), ..LbdPlan::default() };
            (Some(Director::start(&lab, &plan)?), None)
        };
        lab.client().ip("route add 10.0.0.0/24 via 192.0.2.1")?;
        let mut witnesses = vec![Witness::start(lab.client())?, Witness::start(lab.director())?];
        for server in lab.servers() {
            witnesses.push(Witness::start(server)?);
        }
        Ok(Side { lab, director, _kernel: kernel, _witnesses: witnesses })
    }

    fn interfaces(&self) -> (&'static str, &'static str) {
        if self.director.is_some() { ("wan", "lan") } else { (WAN_LINK, LAN_LINK) }
    }

    fn restore(&self, rules: &str) -> Result<()> {
        let (wan, lan) = self.interfaces();
        let rules = rules.replace("{wan}", wan).replace("{lan}", lan);
        let mut command = match &self.director {
            None => {
                let mut command = self.lab.director().command("iptables-legacy-restore");
                // Its lock is the machine's.
                command.args(["--wait", "60"]);
                command
            }
            Some(director) => director.lbctl(&["iptables-restore"])?,
        };
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("its input")?.write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What becomes of connections under these rules.
    fn outcomes(&self, rules: &str, tries: &[Try], patience: Duration) -> Result<Vec<String>> {
        self.restore(NOTHING)?;
        // Every ten seconds Linux begins elsewhere with its source ports, and may come to one again: what another ruleset made of that
        // connection would go on.
        match &self.director {
            Some(director) => drop(director.run_lbctl("conntrack -F")?),
            None => {
                let _not_installed = self.lab.director().output(60, "conntrack", &["-F"]);
            }
        }
        self.restore(rules)?;
        let outcome = |what| outcome(&self.lab, what, patience);
        if REMEMBERING.iter().any(|word| rules.contains(word)) {
            return tries.iter().map(|&what| outcome(what)).collect();
        }
        std::thread::scope(|scope| {
            let all: Vec<_> = tries.iter().map(|&what| scope.spawn(move || outcome(what))).collect();
            let all: Vec<_> = all.into_iter().map(|one| one.join()).collect();
            all.into_iter().map(|one| one.map_err(|_panic| anyhow!("a try panicked"))?).collect()
        })
    }

    /// What `lbd` has dropped until now, by reason, and what its ports have missed.
    fn lost(&self) -> Result<HashMap<String, f64>> {
        let Some(director) = &self.director else { return Ok(HashMap::new()) };
        let metrics = director.metrics()?;
        let of_interest = ["lb_drops_total", "lb_port_", "lb_twin_"];
        Ok(of_interest.iter().flat_map(|prefix| metrics.with_prefix(prefix)).collect())
    }

    /// What may say why a packet did not come through: what was lost since, and the neighbours of everybody.
    fn evidence(&self, before: &HashMap<String, f64>) -> Result<String> {
        let mut said = String::new();
        for (name, count) in self.lost()? {
            let more = count - before.get(&name).unwrap_or(&0.0);
            if more != 0.0 {
                writeln!(said, "  {name} +{more}")?;
            }
        }
        for of in [self.lab.director(), self.lab.client()].into_iter().chain(self.lab.servers()) {
            for line in of.ip("-4 -s neigh show")?.lines() {
                writeln!(said, "  {}: {line}", of.role())?;
            }
        }
        Ok(said)
    }
}

/// Where the outcomes under a ruleset are not the kernel's, one line each.
fn differences(kernel: &Side, ours: &Side, ruleset: &Ruleset, patience: Duration) -> Result<String> {
    let &(name, rules, more) = ruleset;
    let tries = [USUAL, more].concat();
    let before = ours.lost()?;
    let (of_kernel, of_ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| kernel.outcomes(rules, &tries, patience));
        let ours = ours.outcomes(rules, &tries, patience);
        (theirs.join(), ours)
    });
    let of_ours = of_ours.with_context(|| format!("ruleset {name:?}"))?;
    let Ok(of_kernel) = of_kernel else { bail!("ruleset {name:?}: the thread panicked") };
    let mut differences = String::new();
    for ((what, theirs), mine) in tries.iter().zip(of_kernel?).zip(of_ours) {
        if theirs != mine {
            writeln!(differences, "{name}: {what:?}: the kernel: {theirs}; lbd: {mine}")?;
        }
    }
    if !differences.is_empty() {
        eprintln!("{differences}{}", ours.evidence(&before)?);
    }
    Ok(differences)
}

/// The same for several, in two labs of their own.
fn all_differences<'a>(rulesets: impl Iterator<Item = &'a Ruleset>) -> Result<String> {
    let kernel = Side::up(Tag::of_this_process(), true)?;
    let ours = Side::up(Tag::of_this_process(), false)?;
    let mut all = String::new();
    for ruleset in rulesets {
        let mut last = String::new();
        for patience in PATIENCE {
            last = differences(&kernel, &ours, ruleset, patience)?;
            if last.is_empty() {
                break;
            }
        }
        all += &last;
    }
    Ok(all)
}

#[test]
fn the_same_connections_come_through_as_in_the_kernel() -> Result<()> {
    // Most of the time an answer is waited for that does not come.
    const SHARES: usize = 2;
    let all: Result<Vec<String>> = std::thread::scope(|scope| {
        let share = |n| scope.spawn(move || all_differences(RULESETS.iter().skip(n).step_by(SHARES)));
        let shares: Vec<_> = (0..SHARES).map(share).collect();
        let shares: Vec<_> = shares.into_iter().map(|share| share.join()).collect();
        shares.into_iter().map(|share| share.map_err(|_panic| anyhow!("a share panicked"))?).collect()
    });
    let all = all?.concat();
    ensure!(all.is_empty(), "{} rulesets\n{all}", RULESETS.len());
    Ok(())
}
