//! Goal: by FullNAT real clients are served by real servers that have no route to them.
//! Method: the real servers' default routes are taken away, so that they reach their own link alone; clients download, upload, ask over
//! UDP and SCTP, and go on when the director is killed under them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use lab::server::{self, ECHO_PORT, HTTP_PORT, Nginx, UdpEcho};
use lab::topology::{self, CLIENT, GATEWAY, GATEWAY_V6, Plan, VIP, VIP_V6};
use lab::{Director, Lab, LbdPlan, Namespace, PATIENCE, client, sctp};

const SERVERS: u8 = 2;
const UPLOAD_PORT: u16 = 9000;
const SCTP_PORT: u16 = 2905;

/// For both families; with `is_mixed` each by real servers of the other one.
fn services(is_mixed: bool) -> String {
    let all = [
        ("tcp", HTTP_PORT, SERVERS),
        ("udp", ECHO_PORT, SERVERS),
        ("tcp", UPLOAD_PORT, 1),
        ("sctp", SCTP_PORT, 1),
    ];
    LbdPlan::services_by("forward = \"fullnat\"", is_mixed, &all)
}

fn forget_the_way_back(lab: &Lab) -> Result<()> {
    for server in lab.servers() {
        server.ip("route del default")?;
        server.ip("-6 route del default")?;
        for client in ["192.0.2.100", "2001:db8::100"] {
            ensure!(server.ip(&format!("route get {client}")).is_err(), "it still has a route to {client}");
        }
    }
    Ok(())
}

/// Sends back what it gets, on one connection after the other.
fn echo(server: &Namespace) -> Result<()> {
    let listener = server.enter(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, UPLOAD_PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mut from, mut to) = (&stream, &stream);
            if std::io::copy(&mut from, &mut to).is_ok() {
                let _the_client_is_gone = stream.shutdown(Shutdown::Write);
            }
        }
    });
    Ok(())
}

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What comes back of an upload.
fn uploaded(client: &Namespace, vip: IpAddr, content: &[u8]) -> Result<Vec<u8>> {
    let mut stream = client.enter(|| TcpStream::connect((vip, UPLOAD_PORT)))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || {
            writer.write_all(content)?;
            writer.shutdown(Shutdown::Write)
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        sent.join().map_err(|_| anyhow::anyhow!("the upload panicked"))??;
        Ok(back)
    })
}

/// A client downloads, asks and uploads by this address; returns the connection of the download.
fn is_served(lab: &Lab, vip: IpAddr, file: &[u8], upload: &[u8]) -> Result<client::KeptOpen> {
    let page = SocketAddr::new(vip, HTTP_PORT);
    let mut who = (0..4).map(|_| client::fetch(lab.client(), page)).collect::<std::io::Result<Vec<_>>>()?;
    who.sort();
    assert_eq!(who.concat(), "s1\ns1\ns2\ns2\n", "over {vip}");
    let echo = SocketAddr::new(vip, ECHO_PORT);
    // The second datagram is longer than the link's MTU: it comes and leaves in fragments.
    for question in [vec![b'?'; 1], vec![b'?'; 3000]] {
        let answer = client::ask(lab.client(), echo, &question)?;
        ensure!(answer.ends_with(&question), "{} bytes came back over {vip}", answer.len());
    }
    let mut connection = client::KeptOpen::connect(lab.client(), SocketAddr::new(vip, HTTP_PORT))?;
    ensure!(connection.get("/files/large")? == file, "the copy differs, over {vip}");
    ensure!(uploaded(lab.client(), vip, upload)? == upload, "the upload differs, over {vip}");
    Ok(connection)
}

/// `lbctl` with these words, by a shell.
fn lbctl(lab: &Lab, director: &Director, words: &str) -> Result<String> {
    let line = format!(
        "{} --socket {} {words}",
        lab::director::program("lbctl")?.display(),
        director.socket().display()
    );
    lab.director().run(60, "sh", &["-c", &line])
}

/// The local endpoint that `lbctl connections` shows for the client's port.
fn local_endpoint(lab: &Lab, director: &Director, port: u16) -> Result<SocketAddr> {
    let lines = lbctl(lab, director, "connections")?;
    let line =
        lines.lines().find(|line| line.contains(&format!(":{port} "))).with_context(|| lines.clone())?;
    line.split_whitespace().last().unwrap_or_default().parse().with_context(|| lines.clone())
}

#[test]
fn real_servers_without_a_route_to_the_client_serve_it() -> Result<()> {
    let lab = Lab::with(&Plan { servers: SERVERS, ..Plan::default() })?;
    forget_the_way_back(&lab)?;
    let _nginx = Nginx::start_all(&lab)?;
    let _echoes = UdpEcho::start_all(&lab)?;
    echo(&lab.servers()[0])?;
    let sctp_at = |address: IpAddr| SocketAddr::new(address, SCTP_PORT);
    let _sctp = sctp::Server::start(&lab.servers()[0], sctp_at(topology::server(0).into()))?;
    let plan = LbdPlan { services: services(false), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let file = server::serve_file(&lab, "large", 8)?;
    let upload = content(4 << 20);
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        is_served(&lab, vip, &file, &upload)?;
    }
    let from = SocketAddr::new(CLIENT.into(), 4000);
    let mut association = sctp::Association::open(lab.client(), from, sctp_at(VIP.into()))?;
    let answer = association.ask(b"who")?;
    ensure!(answer.starts_with("s1"), "{answer}");
    let listed = director.ipvsadm("-L -n")?;
    assert_eq!(listed.matches(" FullNat ").count(), 2 * (2 * usize::from(SERVERS) + 2), "{listed}");
    let save =
        |file: &str| lbctl(&lab, &director, &format!("ipvsadm -S -n > {}", lab.dir().join(file).display()));
    save("before")?;
    lbctl(&lab, &director, "ipvsadm -C")?;
    lbctl(&lab, &director, &format!("ipvsadm -R < {}", lab.dir().join("before").display()))?;
    save("after")?;
    let [before, after] = ["before", "after"].map(|file| std::fs::read_to_string(lab.dir().join(file)));
    let before = before?;
    ensure!(before == after? && before.contains("--fullnat"), "what is saved is restored: {before}");
    Ok(())
}

#[test]
fn a_connection_by_full_nat_outlives_the_director() -> Result<()> {
    let lab = Lab::with(&Plan { servers: SERVERS, ..Plan::default() })?;
    forget_the_way_back(&lab)?;
    let _nginx = Nginx::start_all(&lab)?;
    let plan = LbdPlan { services: services(false), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let mut connections = Vec::new();
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        let mut connection = client::KeptOpen::connect(lab.client(), SocketAddr::new(vip, HTTP_PORT))?;
        connection.get("/")?;
        let port = connection.local()?.port();
        let local = local_endpoint(&lab, &director, port)?;
        let own: IpAddr = if vip.is_ipv6() { GATEWAY_V6.into() } else { GATEWAY.into() };
        ensure!(local.ip() == own && (1024..32_768).contains(&local.port()), "{local}");
        connections.push((connection, port, local));
    }
    director.kill()?;
    let director = Director::start(&lab, &plan)?;
    for (connection, port, local) in &mut connections {
        connection.get("/")?;
        assert_eq!(local_endpoint(&lab, &director, *port)?, *local);
    }
    Ok(())
}

#[test]
fn clients_are_served_by_real_servers_of_the_other_family() -> Result<()> {
    let lab = Lab::with(&Plan { servers: SERVERS, ..Plan::default() })?;
    forget_the_way_back(&lab)?;
    let _nginx = Nginx::start_all(&lab)?;
    let _echoes = UdpEcho::start_all(&lab)?;
    echo(&lab.servers()[0])?;
    let plan = LbdPlan { services: services(true), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let file = server::serve_file(&lab, "large", 4)?;
    let upload = content(2 << 20);
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        let connection = is_served(&lab, vip, &file, &upload)?;
        let local = local_endpoint(&lab, &director, connection.local()?.port())?;
        ensure!(local.is_ipv6() != vip.is_ipv6(), "{local} is not of the other family");
    }
    Ok(())
}
