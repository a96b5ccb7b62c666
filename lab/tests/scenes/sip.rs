//! Goal: where a rule gives SIP's helper a call through masquerade is heard both ways, by UDP and by TCP; calls keep their real server by their Call-ID, and what
//! names no call, as all of TCP, is dropped until clients alone are told apart.
//! Method: phones and real servers are sockets of this test, which compare what they hear word by word; rules and `ipvsadm` as an operator types them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::server::UdpEcho;
use lab::topology::{self, CLIENT, DIRECTOR, VIP};
use lab::{Director, Driver, LbdPlan, Namespace, PATIENCE, Plan, Scene, client};
use socket2::{Domain, Socket, Type};

const SIP: u16 = 5060;

/// A message of SIP with a session description: the first line, whom it is from and to, where media are awaited.
fn message(transport: &str, first: &str, (from, to): (Ipv4Addr, Ipv4Addr), media: (Ipv4Addr, u16)) -> String {
    let (address, port) = media;
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    );
    let (length, transport) = (body.len(), transport.to_uppercase());
    format!(
        "{first}\r\nVia: SIP/2.0/{transport} {from}:5060;branch=z9hG4bK1\r\nFrom: <sip:a@{from}:5060>;tag=1\r\nTo: <sip:b@{to}>\r\n\
         Call-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A phone's line to another one.
trait Line {
    fn say(&mut self, text: &str) -> std::io::Result<()>;
    fn hear(&mut self) -> std::io::Result<String>;
}

impl Line for UdpSocket {
    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.send(text.as_bytes()).map(drop)
    }

    fn hear(&mut self) -> std::io::Result<String> {
        let mut bytes = [0; 2048];
        let length = self.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

/// What is said at once comes at once: it is short.
impl Line for TcpStream {
    fn say(&mut self, text: &str) -> std::io::Result<()> {
        self.write_all(text.as_bytes())
    }

    fn hear(&mut self) -> std::io::Result<String> {
        let mut bytes = [0; 2048];
        let length = self.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

fn udp(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    let socket = namespace.enter(|| UdpSocket::bind((address, port)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A TCP connection from this port to a listener at the other end.
fn tcp(from: (&Namespace, Ipv4Addr), to: (&Namespace, Ipv4Addr)) -> Result<[TcpStream; 2]> {
    let there = SocketAddr::new(to.1.into(), SIP);
    let listener = to.0.enter(|| TcpListener::bind(there))??;
    let here = from.0.enter(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from.1.into(), SIP).into())?;
        socket.connect_timeout(&there.into(), PATIENCE)?;
        Ok(socket.into())
    })??;
    let (other, _) = listener.accept()?;
    for stream in [&here, &other] {
        stream.set_read_timeout(Some(PATIENCE))?;
    }
    Ok([here, other])
}

fn a_call_is_heard_both_ways(transport: &str) -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for rule in [
        &*format!("-t raw -A PREROUTING -p {transport} --dport 5060 -j CT --helper sip"),
        "-t nat -A POSTROUTING -o wan -j MASQUERADE",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        &*format!("-A FORWARD -i lan -p {transport} --dport 5060 -j ACCEPT"),
        "-P FORWARD DROP",
    ] {
        scene.director.run_lbctl(&format!("iptables {rule}"))?;
    }
    let (inside, outside) = (&scene.lab.servers()[0], scene.lab.client());
    let alice = topology::server(0);
    let (mut phone, mut other): (Box<dyn Line>, Box<dyn Line>) = match transport {
        "udp" => {
            let (phone, other) = (udp(inside, alice, SIP)?, udp(outside, CLIENT, SIP)?);
            phone.connect((CLIENT, SIP))?;
            other.connect((DIRECTOR, SIP))?;
            (Box::new(phone), Box::new(other))
        }
        _ => {
            let [phone, other] = tcp((inside, alice), (outside, CLIENT))?;
            assert_eq!(other.peer_addr()?, SocketAddr::new(DIRECTOR.into(), SIP));
            (Box::new(phone), Box::new(other))
        }
    };
    let (ear, other_ear) = (udp(inside, alice, 10000)?, udp(outside, CLIENT, 20000)?);

    let invite = |from, media| {
        message(transport, &format!("INVITE sip:b@{CLIENT} SIP/2.0"), (from, CLIENT), (media, 10000))
    };
    phone.say(&invite(alice, alice))?;
    assert_eq!(other.hear().context("INVITE")?, invite(DIRECTOR, DIRECTOR));
    let answer = |from| message(transport, "SIP/2.0 200 OK", (from, CLIENT), (CLIENT, 20000));
    other.say(&answer(DIRECTOR))?;
    assert_eq!(phone.hear().context("the answer")?, answer(alice));
    let expected = scene.director.run_lbctl("conntrack -L expect -p udp")?;
    let line = format!("src={CLIENT} dst={DIRECTOR} sport=0 dport=10001 mask-src=255.255.255.255 ");
    ensure!(expected.contains(&line) && expected.contains(" helper=sip\n"), "{expected}");
    let shown = |count: usize| -> Result<()> {
        // How many it says apart from them.
        let output = scene.director.lbctl(&["conntrack", "-L", "expect"])?.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains(&format!("{count} expectations have been shown.")), "{said}");
        Ok(())
    };
    shown(4)?;

    let heard = |ear: &UdpSocket, whose: &str| -> Result<SocketAddr> {
        let (length, from) = ear.recv_from(&mut [0; 10]).with_context(|| format!("{whose} voice"))?;
        ensure!(length == 3);
        Ok(from)
    };
    other_ear.send_to(b"rtp", (DIRECTOR, 10000))?;
    let from = heard(&ear, "the other's")?;
    ear.send_to(b"rtp", from)?;
    assert_eq!(heard(&other_ear, "the phone's")?, SocketAddr::new(DIRECTOR.into(), 10000));
    other.say("BYE sip:a@192.0.2.1 SIP/2.0\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n")?;
    let text = phone.hear().context("BYE")?;
    ensure!(text.starts_with(&format!("BYE sip:a@{alice}:5060 SIP/2.0")), "{text}");
    shown(0)
}

#[test]
fn where_a_rule_gives_sips_helper_a_call_through_masquerade_is_heard_both_ways() -> Result<()> {
    a_call_is_heard_both_ways("udp")
}

#[test]
fn where_a_rule_gives_sips_helper_a_call_by_tcp_is_heard_both_ways() -> Result<()> {
    a_call_is_heard_both_ways("tcp")
}

/// Two workers, two further addresses of the client, and no service yet.
fn scene() -> Result<Scene> {
    let scene = Scene::up(&Plan { queues: 2, ..Plan::default() }, &lbd())?;
    for address in CLIENTS {
        scene.lab.client().ip(&format!("addr add {address}/24 dev eth0"))?;
    }
    Ok(scene)
}

fn lbd() -> LbdPlan {
    LbdPlan { driver: Driver::AfPacket, workers: vec![0, 1], services: String::new(), ..LbdPlan::default() }
}

/// Of one network, as the service below sees it, and of another one.
const CLIENTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 101), Ipv4Addr::new(192, 0, 2, 102), Ipv4Addr::new(192, 0, 2, 201)];

fn request(call: &str) -> String {
    format!(
        "OPTIONS sip:b@{VIP} SIP/2.0\r\nTo: <sip:b@{VIP}>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

fn add_service(director: &Director, service: &str, options: &str) -> Result<()> {
    director.ipvsadm(&format!("-A {service} -s rr {options}"))?;
    for index in 0..3 {
        director.ipvsadm(&format!("-a {service} -r {}:{SIP} -m", topology::server(index)))?;
    }
    Ok(())
}

#[test]
fn a_call_keeps_its_real_server_from_any_port_and_over_the_directors_death() -> Result<()> {
    let mut scene = scene()?;
    let _phones = scene
        .lab
        .servers()
        .iter()
        .map(|server| UdpEcho::start_on(server, SIP))
        .collect::<Result<Vec<_>>>()?;
    let service = format!("-u {VIP}:{SIP}");
    add_service(&scene.director, &service, "-p 100 -M 255.255.255.192 --pe sip")?;
    let who = |scene: &Scene, from: Ipv4Addr, call: &str| -> Result<String> {
        let asked = request(call);
        let socket = udp(scene.lab.client(), from, 0)?;
        socket.send_to(asked.as_bytes(), (VIP, SIP))?;
        let mut bytes = [0; 2048];
        let (length, _) = socket.recv_from(&mut bytes).with_context(|| format!("{call} from {from}"))?;
        let answer = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let (who, heard) = answer.split_once(' ').context("no name")?;
        ensure!(heard == asked, "it came as {heard}");
        Ok(who.to_owned())
    };
    // Each from a new port: one call after the other and once more, from two addresses that are one client.
    let mut of_calls = BTreeMap::new();
    let calls: Vec<String> = (0..12).map(|call| format!("{call}@phone.example")).collect();
    for from in [CLIENTS[0], CLIENTS[1], CLIENTS[0]] {
        for call in &calls {
            let who = who(&scene, from, call)?;
            let first = of_calls.entry(call).or_insert_with(|| who.clone());
            ensure!(*first == who, "{call} from {from} goes to {who}, and went to {first}");
        }
    }
    let servers: BTreeSet<_> = of_calls.values().collect();
    ensure!(servers.len() == 3, "calls of one client are spread: {of_calls:?}");
    // A call of the same name is another one at another client.
    who(&scene, CLIENTS[2], &calls[0])?;
    let listed = scene.director.ipvsadm("-L -n -c")?;
    let templates = listed.lines().filter(|line| line.contains(":0 ")).count();
    ensure!(templates == calls.len() + 1, "{templates} templates: {listed}");

    scene.director.kill()?;
    scene.director = Director::start(&scene.lab, &lbd())?;
    for (call, first) in &of_calls {
        assert_eq!(who(&scene, CLIENTS[1], call)?, *first, "{call}, after kill -9");
    }
    // What names no call begins nothing.
    let nameless = udp(scene.lab.client(), CLIENTS[0], 0)?;
    nameless.send_to(request("").as_bytes(), (VIP, SIP))?;
    until_no_call(&scene, 1.0)?;
    nameless.set_nonblocking(true)?;
    ensure!(nameless.recv(&mut [0; 10]).is_err(), "it was answered");
    Ok(())
}

fn until_no_call(scene: &Scene, count: f64) -> Result<()> {
    scene.director.until_metrics("what names no call is dropped", |metrics| {
        metrics.sum("lb_drops_total", &["reason=\"no_call_id\""]) >= count
    })
}

/// Answers each request with who it is, on one connection after the other and for as long as the test runs.
fn answer_calls(namespace: &Namespace) -> Result<()> {
    let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SIP)))??;
    let role = namespace.role().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let role = role.clone();
            std::thread::spawn(move || {
                let mut stream = stream;
                // A request is whole in what is read at once: it is short, and the next one comes when it was answered.
                while let Ok(request) = stream.hear()
                    && request.ends_with("\r\n\r\n")
                {
                    let call = request.lines().find(|line| line.starts_with("Call-ID")).unwrap_or_default();
                    let answer =
                        format!("SIP/2.0 200 OK\r\nServer: {role}\r\n{call}\r\nContent-Length: 0\r\n\r\n");
                    if stream.say(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

/// Who answers these calls, one after the other on a connection of their own.
fn who_answers(scene: &Scene, from: Ipv4Addr, calls: &[&str]) -> Result<String> {
    let at = SocketAddr::new(VIP.into(), SIP);
    let mut stream = scene.lab.client().enter(|| client::connect_from(from, at, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut servers = BTreeSet::new();
    for call in calls {
        stream.say(&request(call))?;
        let answer = stream.hear().with_context(|| format!("{call} from {from}"))?;
        ensure!(answer.contains(&format!("\r\nCall-ID: {call}\r\n")), "{answer}");
        servers.extend(answer.lines().find_map(|line| line.strip_prefix("Server: ")).map(str::to_owned));
    }
    match servers.pop_first() {
        Some(server) if servers.is_empty() => Ok(server),
        first => bail!("one connection, several servers: {first:?}, {servers:?}"),
    }
}

#[test]
fn calls_by_tcp_are_dropped_by_call_id_and_keep_their_real_server_by_their_client() -> Result<()> {
    let scene = scene()?;
    scene.lab.servers().iter().try_for_each(answer_calls)?;
    let service = format!("-t {VIP}:{SIP}");
    add_service(&scene.director, &service, "-p 100 --pe sip")?;
    let at = SocketAddr::new(VIP.into(), SIP);
    let refused = client::KeptOpen::connect_within(scene.lab.client(), at, Duration::from_millis(300));
    ensure!(refused.is_err(), "no SYN names a call");
    until_no_call(&scene, 1.0)?;
    let listed = scene.director.ipvsadm("-L -n -c")?;
    ensure!(!listed.contains("TCP "), "{listed}");

    scene.director.ipvsadm(&format!("-D {service}"))?;
    add_service(&scene.director, &service, "-p 100")?;
    let mut servers = BTreeMap::new();
    for (from, calls) in [(0, ["a", "b"]), (1, ["a", "b"]), (2, ["c", "a"]), (0, ["c", "d"]), (1, ["d", "c"])]
    {
        let from = CLIENTS[from];
        for _ in 0..3 {
            let who = who_answers(&scene, from, &calls)?;
            let first = servers.entry(from).or_insert_with(|| who.clone());
            ensure!(*first == who, "{from} goes to {who}, and went to {first}");
        }
    }
    let listed = scene.director.ipvsadm("-L -n -c")?;
    let templates = listed.lines().filter(|line| line.contains(":0 ")).count();
    ensure!(templates == CLIENTS.len(), "{templates} templates: {listed}");
    Ok(())
}
