//! Goal: real clients are served by direct routing and through tunnels, by real servers set up as operators do it.
//! Method: the virtual service's address is on `lo` of every real server, quiet for ARP; answers go to the client by a cable of
//! their own, past the director. The end of a tunnel is `lab::decapsulate`.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::decapsulate::{Decapsulator, GUE_PORT};
use lab::server::{self, ECHO_PORT, HTTP_PORT, Nginx, Sink, UdpEcho};
use lab::topology::{self, CLIENT, CLIENT_V6, VIP, VIP_V6};
use lab::wire::Tap;
use lab::{Director, Lab, LbdPlan, PATIENCE, client, sctp, until};

const SINK_PORT: u16 = 9000;
const SERVERS: u8 = 3;
/// The client's end of the cable that answers come by.
const BACK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const BACK_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100);

/// Real servers of the service's family, or of the other one.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Same,
    Other,
}

/// All services of the test: pages, echo, and a sink on s1, over IPv4 and IPv6.
fn services(forward: &str, family: Family) -> String {
    let all = [("tcp", HTTP_PORT, SERVERS), ("udp", ECHO_PORT, SERVERS), ("tcp", SINK_PORT, 1)];
    LbdPlan::services_by(forward, family == Family::Other, &all)
}

/// What an operator does on a real server, and a way back to the client.
fn answers_go_straight(lab: &Lab) -> Result<()> {
    let (client, switch) = (lab.client(), lab.switch());
    switch.ip(&format!("link add back type veth peer name back0 netns {}", client.name()))?;
    switch.ip("link set back master br0 up")?;
    client.run(60, "ethtool", &["-K", "back0", "tx", "off"])?;
    client.ip(&format!("addr add {BACK}/24 dev back0"))?;
    client.ip(&format!("addr add {BACK_V6}/64 dev back0 nodad"))?;
    client.ip("link set back0 up")?;
    for server in lab.servers() {
        server.sysctl("ipv4/conf/all/arp_ignore", "1")?;
        server.sysctl("ipv4/conf/all/arp_announce", "2")?;
        server.ip(&format!("addr add {VIP}/32 dev lo"))?;
        server.ip(&format!("addr add {VIP_V6}/128 dev lo nodad"))?;
        // The echo answers from the address that the route names.
        server.ip(&format!("route add {CLIENT}/32 via {BACK} src {VIP}"))?;
        server.ip(&format!("route add {CLIENT_V6}/128 via {BACK_V6} src {VIP_V6}"))?;
    }
    Ok(())
}

/// `takes`: bytes of a tunnel behind its outer IP header; none: there is no tunnel.
fn clients_are_served(forward: &str, families: &[Family], takes: Option<u16>) -> Result<()> {
    let lab = Lab::new()?;
    answers_go_straight(&lab)?;
    let _nginx = Nginx::start_all(&lab)?;
    let _echoes = UdpEcho::start_all(&lab)?;
    let _sink = Sink::start(&lab.servers()[0], SocketAddr::new([0_u16; 8].into(), SINK_PORT))?;
    let ends = match takes {
        Some(_) => lab.servers().iter().map(Decapsulator::start).collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    let content = server::serve_file(&lab, "large", 2)?;
    for &family in families {
        are_served(&lab, &content, forward, family, takes)?;
        // What the client has learnt of the way.
        lab.client().ip("route flush cache")?;
        lab.client().ip("-6 route flush cache")?;
    }
    if takes.is_some() {
        ensure!(
            ends.iter().all(|end| end.unpacked() > 0),
            "a real server got nothing by its tunnel: {ends:?}"
        );
    }
    Ok(())
}

fn are_served(lab: &Lab, content: &[u8], forward: &str, family: Family, takes: Option<u16>) -> Result<()> {
    let services = services(forward, family);
    let director =
        Director::start(lab, &LbdPlan { services, flow_memory: Some("none"), ..LbdPlan::default() })?;
    for vip in [IpAddr::from(VIP), VIP_V6.into()] {
        let page = SocketAddr::new(vip, HTTP_PORT);
        let mut who =
            (0..6).map(|_| client::fetch(lab.client(), page)).collect::<std::io::Result<Vec<_>>>()?;
        who.sort();
        assert_eq!(who.concat(), "s1\ns1\ns2\ns2\ns3\ns3\n", "over {vip}");
        let echo = SocketAddr::new(vip, ECHO_PORT);
        let mut who: Vec<String> = (0..3)
            .map(|_| Ok(String::from_utf8_lossy(&client::ask(lab.client(), echo, b"?")?).into_owned()))
            .collect::<Result<_>>()?;
        who.sort();
        assert_eq!(who, ["s1 ?", "s2 ?", "s3 ?"], "over {vip}");

        let mut connection = client::KeptOpen::connect(lab.client(), SocketAddr::new(vip, HTTP_PORT))?;
        ensure!(connection.get("/files/large")? == content, "the copy differs, over {vip}");
        let listed = director.ipvsadm("-L -n -c")?;
        let mine = connection.local()?.port().to_string();
        let line = listed.lines().find(|line| line.contains(&mine)).unwrap_or_default();
        ensure!(line.contains("ESTABLISHED"), "over {vip}: {listed}");

        // Segments are as long as the client's link allows at first: it has to hear of the tunnel.
        let mut stream = lab.client().enter(|| TcpStream::connect((vip, SINK_PORT)))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x2a; 1 << 20])?;
        stream.shutdown(Shutdown::Write)?;
        let mut count = String::new();
        stream.read_to_string(&mut count)?;
        assert_eq!(count, (1 << 20).to_string(), "over {vip}");
        if let Some(takes) = takes {
            let is_to_ipv6 = vip.is_ipv6() == (family == Family::Same);
            let mtu = 1500 - takes - if is_to_ipv6 { 40 } else { 20 };
            let route = lab.client().ip(&format!("route get {vip}"))?;
            ensure!(
                route.contains(&format!("mtu {mtu}")),
                "the client did not learn the tunnel's MTU: {route}"
            );
        }
    }
    let stats = director.ipvsadm("-L -n --stats --exact")?;
    for line in stats.lines().filter(|line| line.contains("->")).skip(1) {
        let numbers: Vec<&str> = line.split_whitespace().rev().take(5).collect();
        assert_eq!([numbers[2], numbers[0]], ["0", "0"], "answers came by the director: {line}");
    }
    director.stop()?;
    Ok(())
}

#[test]
fn clients_are_served_by_direct_routing() -> Result<()> {
    clients_are_served("forward = \"direct\"", &[Family::Same], None)
}

#[test]
fn clients_are_served_through_ipip() -> Result<()> {
    clients_are_served_over("ipip", "", 0)
}

#[test]
fn clients_are_served_through_gue() -> Result<()> {
    let more = format!(", tunnel_port = {GUE_PORT}, tunnel_checksum = \"checksum\"");
    clients_are_served_over("gue", &more, 12)
}

#[test]
fn clients_are_served_through_gre() -> Result<()> {
    clients_are_served_over("gre", ", tunnel_checksum = \"checksum\"", 8)
}

fn clients_are_served_over(kind: &str, more: &str, takes: u16) -> Result<()> {
    let forward = format!("forward = \"tunnel\", tunnel = \"{kind}\"{more}");
    clients_are_served(&forward, &[Family::Same, Family::Other], Some(takes))
}

#[test]
fn a_clients_syn_leaves_room_for_the_tunnel() -> Result<()> {
    const IPIP: u8 = 4;
    const SYN: u8 = 2;
    let lab = Lab::new()?;
    answers_go_straight(&lab)?;
    let services = format!(
        "\n[[virtual_service]]\naddress = \"{VIP}:{HTTP_PORT}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\nclamp_mss = true\n\
         real_servers = [{{ address = \"{}\", forward = \"tunnel\", tunnel = \"ipip\" }}]\n",
        topology::server(0)
    );
    let _director = Director::start(&lab, &LbdPlan { services, ..LbdPlan::default() })?;
    let link = Tap::open(&lab.servers()[0], "eth0")?;
    // Nobody unpacks it, so that nobody answers.
    let to = SocketAddr::new(VIP.into(), HTTP_PORT);
    let _refused = lab.client().enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))?;
    let inner = 14 + 20;
    let tcp = inner + 20;
    let is_syn = |frame: &[u8]| frame.get(23) == Some(&IPIP) && frame.get(tcp + 13) == Some(&SYN);
    let syn = link.receive("the SYN in its tunnel", PATIENCE, is_syn)?;
    // The first option of Linux's SYN (RFC 9293 §3.7.1): what fits 1500 bytes with two IPv4 headers.
    assert_eq!(syn[tcp + 20..tcp + 22], [2, 4]);
    assert_eq!(u16::from_be_bytes([syn[tcp + 22], syn[tcp + 23]]), 1500 - 2 * 20 - 20);
    Ok(())
}

#[test]
fn a_connection_by_direct_routing_outlives_the_director() -> Result<()> {
    let lab = Lab::new()?;
    answers_go_straight(&lab)?;
    let _nginx = Nginx::start_all(&lab)?;
    let plan = LbdPlan { services: services("forward = \"direct\"", Family::Same), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let mut connections = [IpAddr::from(VIP), VIP_V6.into()]
        .map(|vip| client::KeptOpen::connect(lab.client(), SocketAddr::new(vip, HTTP_PORT)));
    for connection in &mut connections {
        connection.as_mut().map_err(|error| anyhow::anyhow!("{error}"))?.get("/")?;
    }
    director.kill()?;
    let director = Director::start(&lab, &plan)?;
    for connection in &mut connections {
        connection.as_mut().map_err(|error| anyhow::anyhow!("{error}"))?.get("/")?;
    }
    until("the connections are listed", PATIENCE, || {
        let listed = director.ipvsadm("-L -n -c").ok()?;
        (listed.lines().filter(|line| line.contains("ESTABLISHED")).count() == 2).then_some(())
    })
}

#[test]
fn an_association_by_direct_routing_and_through_ipip_goes_by_what_the_client_sends() -> Result<()> {
    const SCTP_PORT: u16 = 2905;
    for (forward, is_tunnel) in [("direct", false), ("tunnel", true)] {
        let lab = Lab::new()?;
        answers_go_straight(&lab)?;
        let at = SocketAddr::new(VIP.into(), SCTP_PORT);
        let _servers =
            lab.servers().iter().map(|server| sctp::Server::start(server, at)).collect::<Result<Vec<_>>>()?;
        let ends = if is_tunnel {
            lab.servers().iter().map(Decapsulator::start).collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let servers: String = (0..SERVERS)
            .map(|index| {
                format!("{{ address = \"{}\", forward = \"{forward}\" }}, ", topology::server(index))
            })
            .collect();
        let services = format!(
            "\n[[virtual_service]]\naddress = \"{at}\"\nprotocol = \"sctp\"\nscheduler = \"rr\"\nreal_servers = [{servers}]\n"
        );
        let director = Director::start(&lab, &LbdPlan { services, ..LbdPlan::default() })?;
        let mut who = Vec::new();
        for port in 4000..4003 {
            let from = SocketAddr::new(CLIENT.into(), port);
            let mut association = sctp::Association::open(lab.client(), from, at)?;
            // In fragments, which find the connection; our end of a tunnel puts none together.
            let length = if is_tunnel { 1000 } else { 3000 };
            let answer = association.ask(&vec![b'x'; length])?;
            who.extend(answer.split_whitespace().next().map(str::to_owned));
            let listed = director.ipvsadm("-L -n -c")?;
            ensure!(
                listed
                    .lines()
                    .any(|line| line.contains(&format!(":{port} ")) && line.contains("ESTABLISHED")),
                "{listed}"
            );
            association.close()?;
            until("the connection is closed", PATIENCE, || {
                let listed = director.ipvsadm("-L -n -c").ok()?;
                listed
                    .lines()
                    .any(|line| line.contains(&format!(":{port} ")) && line.contains("CLOSED"))
                    .then_some(())
            })?;
        }
        who.sort();
        assert_eq!(who, ["s1", "s2", "s3"], "by {forward}");
        ensure!(
            ends.iter().all(|end| end.unpacked() > 0),
            "a real server got nothing by its tunnel: {ends:?}"
        );
    }
    Ok(())
}
