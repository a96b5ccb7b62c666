//! Goal: real clients reach real servers through `lbd`, whatever they send.
//! Method: a lab each, `lbd` on its links, the kernel's own stacks at both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use lab::server::{self, ECHO_PORT, Sink};
use lab::topology::{self, DIRECTOR, GATEWAY, VIP, VIP_V6};
use lab::wire::Tap;
use lab::{Driver, LbdPlan, PATIENCE, Plan, Scene, client, until};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP), IpAddr::V6(VIP_V6)];

/// The port of the TCP sink behind the virtual service.
const SINK_PORT: u16 = 9000;

fn requests_are_spread(driver: Driver) -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan { driver, ..LbdPlan::default() })?;
    for vip in VIPS {
        assert_eq!(scene.who_serves(vip, 6)?, ["s1", "s1", "s2", "s2", "s3", "s3"], "over {vip}");
    }
    for nginx in &scene.nginx {
        let served = until("four lines in the access log", PATIENCE, || {
            nginx.clients_served().ok().filter(|clients| clients.len() == 4)
        })?;
        let (v4, v6) = (topology::CLIENT.to_string(), topology::CLIENT_V6.to_string());
        assert_eq!(
            served,
            [&*v4, &*v4, &*v6, &*v6],
            "{} saw other addresses than the client's",
            nginx.role()
        );
    }
    Ok(())
}

#[test]
fn requests_are_spread_evenly_over_af_xdp() -> Result<()> {
    requests_are_spread(Driver::AfXdp)
}

#[test]
fn requests_are_spread_evenly_over_af_packet() -> Result<()> {
    requests_are_spread(Driver::AfPacket)
}

#[test]
fn datagrams_are_spread_and_answered_from_the_virtual_address() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for vip in VIPS {
        // The client's socket is connected: an answer from another address would not reach it.
        assert_eq!(scene.who_echoes(vip, 6)?, ["s1 ?", "s1 ?", "s2 ?", "s2 ?", "s3 ?", "s3 ?"], "over {vip}");
    }
    Ok(())
}

#[test]
fn datagrams_in_fragments_arrive_whole() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let question: Vec<u8> = (0..4000_u32).map(|n| (n % 251) as u8).collect();
    for vip in VIPS {
        let answer = client::ask(scene.lab.client(), SocketAddr::new(vip, ECHO_PORT), &question)?;
        assert_eq!(&answer[3..], question, "over {vip}");
    }
    Ok(())
}

#[test]
fn a_closed_udp_port_of_a_real_server_is_reported_to_the_client() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.echoes.clear();
    for vip in VIPS {
        let answer = client::ask(scene.lab.client(), SocketAddr::new(vip, ECHO_PORT), b"?");
        // The kernel gives an ICMP error to the socket only when the packet inside is the one that it sent.
        assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused), "over {vip}");
    }
    Ok(())
}

#[test]
fn a_large_download_passes_a_client_side_router_with_a_smaller_mtu() -> Result<()> {
    let scene = Scene::up(&Plan { access_mtu: Some(1400), ..Plan::default() }, &LbdPlan::default())?;
    let content = server::serve_file(&scene.lab, "large", 4)?;
    // Routes are the kernel's, on the twin: how the director learns where the client is.
    scene.lab.director().ip("route add 198.51.100.0/24 via 192.0.2.2 dev wan")?;
    scene.lab.director().ip("route add 2001:db8:51::/64 via 2001:db8::2 dev wan")?;
    for vip in VIPS {
        until("a first page by the new route", PATIENCE, || {
            client::curl(scene.lab.client(), &client::url(vip, 80, "/")).ok()
        })?;
        let mut connection = client::KeptOpen::connect(scene.lab.client(), SocketAddr::new(vip, 80))?;
        assert!(connection.get("/files/large")? == content, "the copy differs, over {vip}");
    }
    for (family, flag) in [("IPv4", "-4"), ("IPv6", "-6")] {
        let cached: String = scene
            .lab
            .servers()
            .iter()
            .map(|s| s.ip(&format!("{flag} route show cache")))
            .collect::<Result<_>>()?;
        assert!(cached.contains("mtu 1400"), "no server learnt the path's MTU over {family}: {cached}");
    }
    Ok(())
}

#[test]
fn a_large_upload_learns_that_the_servers_side_takes_less() -> Result<()> {
    let services: String =
        [(VIP.into(), topology::server(0).into()), (VIP_V6.into(), topology::server_v6(0).into())]
            .map(|(vip, server): (IpAddr, IpAddr)| {
                LbdPlan::service(
                    SocketAddr::new(vip, 9),
                    "tcp",
                    "rr",
                    &[(SocketAddr::new(server, SINK_PORT), 1)],
                )
            })
            .concat();
    let scene = Scene::up(&Plan::default(), &LbdPlan { lan_mtu: 1400, services, ..LbdPlan::default() })?;
    let _sink = Sink::start(&scene.lab.servers()[0], SocketAddr::new([0_u16; 8].into(), SINK_PORT))?;
    for vip in VIPS {
        let mut stream = scene.lab.client().enter(|| TcpStream::connect((vip, 9)))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&vec![0x2a; 2 << 20])?;
        stream.shutdown(Shutdown::Write)?;
        let mut count = String::new();
        stream.read_to_string(&mut count)?;
        assert_eq!(count, (2 << 20).to_string(), "over {vip}");
        let route = scene.lab.client().ip(&format!("route get {vip}"))?;
        assert!(route.contains("mtu 1400"), "the client did not learn the path's MTU: {route}");
    }
    Ok(())
}

#[test]
fn jumbo_frames_pass_whole() -> Result<()> {
    let plan = Plan { wan_mtu: 9000, lan_mtu: 9000, ..Plan::default() };
    let lbd = LbdPlan { driver: Driver::AfPacket, mtu: 9000, lan_mtu: 9000, ..LbdPlan::default() };
    let scene = Scene::up(&plan, &lbd)?;
    let content = server::serve_file(&scene.lab, "large", 4)?;
    let whole = ["-M", "do", "-s", "8972"];
    assert_eq!(client::ping(scene.lab.client(), DIRECTOR.into(), 3, &whole)?, 3);
    assert_eq!(client::ping(&scene.lab.servers()[0], GATEWAY.into(), 3, &whole)?, 3);
    let tap = Tap::open(scene.lab.client(), "eth0")?;
    let mut connection = client::KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
    assert!(connection.get("/files/large")? == content, "the copy differs");
    tap.receive("a frame of 9014 bytes", PATIENCE, |frame| frame.len() == 9014)?;
    Ok(())
}

#[test]
fn a_virtual_service_without_real_servers_is_reported_as_unreachable() -> Result<()> {
    let services: String =
        VIPS.map(|vip| LbdPlan::service(SocketAddr::new(vip, ECHO_PORT), "udp", "rr", &[])).concat();
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    for vip in VIPS {
        let answer = client::ask(scene.lab.client(), SocketAddr::new(vip, ECHO_PORT), b"?");
        assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused), "over {vip}");
    }
    Ok(())
}

#[test]
fn iperf3_runs_through_the_virtual_service() -> Result<()> {
    let target = SocketAddr::new(topology::server(0).into(), 5201);
    let services = LbdPlan::service(SocketAddr::new(VIP.into(), 5201), "tcp", "rr", &[(target, 1)]);
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    let server = &scene.lab.servers()[0];
    let _iperf = lab::process::Process::spawn(server, scene.lab.dir(), "iperf3", "iperf3", &["--server"])?;
    until("iperf3's server", PATIENCE, || {
        let listening = server.run(60, "ss", &["-Hltn", "sport = :5201"]).ok()?;
        listening.contains("5201").then_some(())
    })?;
    let vip = VIP.to_string();
    let said =
        scene.lab.client().run(60, "iperf3", &["--client", &vip, "--bytes", "50M", "--format", "m"])?;
    let received = said.lines().find(|line| line.ends_with("receiver")).context("no receiver's line")?;
    println!("through lbd over veth: {received}");
    ensure!(!received.contains(" 0.00 Bytes"), "nothing arrived: {received}");
    Ok(())
}
