//! Goal: clients of a persistent service keep their real server, whichever worker has the connection, over every port of the
//! address, and over the director's death; one-packet scheduling sends each datagram on its own; a QUIC connection keeps its real server
//! when its client's address changes.
//! Method: two workers with two queues, nginx, clients with several addresses, `ipvsadm` as an operator types it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use lab::client::KeptOpen;
use lab::server::{ECHO_PORT, HTTP_PORT};
use lab::topology::{self, VIP, VIP_V6};
use lab::{Director, Driver, LbdPlan, PATIENCE, Plan, Scene};

fn lbd() -> LbdPlan {
    LbdPlan { driver: Driver::AfPacket, workers: vec![0, 1], services: String::new(), ..LbdPlan::default() }
}

fn scene() -> Result<Scene> {
    Scene::up(&Plan { queues: 2, ..Plan::default() }, &lbd())
}

/// A client's further addresses: two of its network, one of another.
const CLIENTS: [&str; 3] = ["192.0.2.101", "192.0.2.102", "192.0.2.201"];

/// Who serves a page to the client with this address, `times` times; all the same one.
fn keeps(scene: &Scene, from: &str, port: u16, times: usize) -> Result<String> {
    let (from, service): (IpAddr, _) = (from.parse()?, SocketAddr::new(VIP.into(), port));
    let fetch = || -> Result<String> {
        let page = KeptOpen::connect_from(scene.lab.client(), from, service, PATIENCE)?.get("/")?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    };
    let who = (0..times).map(|_| fetch()).collect::<Result<Vec<_>>>()?;
    ensure!(who.iter().all(|one| *one == who[0]), "{from} does not keep its real server: {who:?}");
    Ok(who[0].trim().to_owned())
}

fn add_servers(
    director: &Director,
    service: &str,
    port: u16,
    servers: impl Iterator<Item = u8>,
) -> Result<()> {
    for index in servers {
        let server = topology::server(index);
        director.ipvsadm(&format!("-a {service} -r {server}:{port} -m"))?;
    }
    Ok(())
}

#[test]
fn a_client_keeps_its_real_server_until_it_is_removed_and_over_the_directors_death() -> Result<()> {
    let scene = scene()?;
    for address in CLIENTS {
        scene.lab.client().ip(&format!("addr add {address}/24 dev eth0"))?;
    }
    // Addresses of the same 26 bits are one client.
    let service = format!("-t {VIP}:80");
    scene.director.ipvsadm(&format!("-A {service} -s rr -p 100 -M 255.255.255.192"))?;
    add_servers(&scene.director, &service, HTTP_PORT, 0..3)?;
    let page = 80;
    let first = keeps(&scene, CLIENTS[0], page, 12)?;
    assert_eq!(keeps(&scene, CLIENTS[1], page, 12)?, first, "they are one client");
    // Each worker goes round by itself, so that another client's may be the same one.
    let other = keeps(&scene, CLIENTS[2], page, 12)?;
    let listed = scene.director.ipvsadm("-L -n -c")?;
    let templates: Vec<_> = listed.lines().filter(|line| line.contains(":0 ")).collect();
    ensure!(
        templates.len() == 2 && templates.iter().all(|line| line.contains("ASSURED")),
        "two templates are expected: {listed}"
    );

    // Quiesced, it still serves whom it has.
    let index = first[1..].parse::<u8>()? - 1;
    let server = format!("{service} -r {}:{HTTP_PORT}", topology::server(index));
    scene.director.ipvsadm(&format!("-e {server} -m -w 0"))?;
    assert_eq!(keeps(&scene, CLIENTS[0], page, 6)?, first);

    scene.director.kill()?;
    let director = Director::start(&scene.lab, &lbd())?;
    let scene = Scene { director, ..scene };
    assert_eq!(keeps(&scene, CLIENTS[0], page, 6)?, first, "after kill -9");
    assert_eq!(keeps(&scene, CLIENTS[2], page, 6)?, other, "after kill -9");

    scene.director.ipvsadm(&format!("-d {server}"))?;
    assert_ne!(keeps(&scene, CLIENTS[0], page, 6)?, first, "it is gone");
    Ok(())
}

#[test]
fn a_service_of_every_port_sends_a_client_to_one_server_whatever_it_asks_for() -> Result<()> {
    let scene = scene()?;
    let service = format!("-t {VIP}:0");
    scene.director.ipvsadm(&format!("-A {service} -s rr -p"))?;
    add_servers(&scene.director, &service, 0, 0..3)?;
    let page = HTTP_PORT;
    let who = keeps(&scene, &topology::CLIENT.to_string(), page, 6)?;
    // A service of its own port takes what goes there.
    let own = format!("-t {VIP}:80");
    scene.director.ipvsadm(&format!("-A {own} -s rr"))?;
    let another = (0..3).find(|index| format!("s{}", index + 1) != who).unwrap_or(0);
    add_servers(&scene.director, &own, HTTP_PORT, another..=another)?;
    assert_eq!(keeps(&scene, &topology::CLIENT.to_string(), 80, 3)?, format!("s{}", another + 1));
    assert_eq!(keeps(&scene, &topology::CLIENT.to_string(), page, 3)?, who);
    Ok(())
}

#[test]
fn one_packet_scheduling_sends_each_datagram_of_a_socket_to_the_next_server() -> Result<()> {
    let scene = scene()?;
    for (vip, server) in [
        (IpAddr::from(VIP), &(|index| topology::server(index).into()) as &dyn Fn(u8) -> IpAddr),
        (VIP_V6.into(), &|index| topology::server_v6(index).into()),
    ] {
        let service = format!("-u {}", SocketAddr::new(vip, ECHO_PORT));
        scene.director.ipvsadm(&format!("-A {service} -s rr -o"))?;
        for index in 0..3 {
            let server = SocketAddr::new(server(index), ECHO_PORT);
            scene.director.ipvsadm(&format!("-a {service} -r {server} -m"))?;
        }
        let answers = scene.lab.client().enter(|| -> std::io::Result<Vec<(IpAddr, String)>> {
            let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut answers = Vec::new();
            for _ in 0..6 {
                socket.send_to(b"?", (vip, ECHO_PORT))?;
                let mut answer = [0; 100];
                let (length, from) = socket.recv_from(&mut answer)?;
                answers.push((from.ip(), String::from_utf8_lossy(&answer[..length]).into_owned()));
            }
            Ok(answers)
        })??;
        for role in 0..3 {
            // Nothing is remembered: the answer comes as the real server sent it.
            let expected = (server(role), format!("s{} ?", role + 1));
            assert_eq!(answers.iter().filter(|answer| **answer == expected).count(), 2, "{answers:?}");
        }
    }
    let listed = scene.director.ipvsadm("-L -n -c")?;
    ensure!(!listed.contains("UDP "), "one-packet scheduling leaves nothing: {listed}");
    Ok(())
}

/// A QUIC packet with a short header, as the client of the real server with this ID sends it (draft-ietf-quic-load-balancers-21 §5.2:
/// configuration 0, in the clear).
fn short_header(server_id: u8) -> Vec<u8> {
    [&[0x40, 0, server_id][..], b"nonce7", b"rest"].concat()
}

/// A client's first packet of version 1: a connection ID that it made up.
fn initial(made_up: u8) -> Vec<u8> {
    [&[0xc0, 0, 0, 0, 1, 8, 0, made_up][..], b"nonce7", &[0; 20]].concat()
}

/// Who answers a datagram, from a socket of its own at this address.
fn who_answers(scene: &Scene, from: &str, datagram: &[u8]) -> Result<String> {
    let answer = scene.lab.client().enter(|| -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(datagram, (VIP, ECHO_PORT))?;
        let mut answer = vec![0; 200];
        let (length, _) = socket.recv_from(&mut answer)?;
        answer.truncate(length);
        Ok(answer)
    })??;
    ensure!(answer.ends_with(datagram), "it came as it was sent");
    Ok(String::from_utf8_lossy(&answer[..2]).into_owned())
}

#[test]
fn a_quic_connection_keeps_its_real_server_when_its_clients_address_changes() -> Result<()> {
    let scene = scene()?;
    for address in CLIENTS {
        scene.lab.client().ip(&format!("addr add {address}/24 dev eth0"))?;
    }
    let service = format!("-u {VIP}:{ECHO_PORT}");
    scene.director.ipvsadm(&format!("-A {service} -s rr --quic-lb 0:1:4"))?;
    for index in 0..3 {
        let server = topology::server(index);
        let id = 0x50 + index;
        scene
            .director
            .ipvsadm(&format!("-a {service} -r {server}:{ECHO_PORT} -m --quic-server-id {id:02x}"))?;
    }
    // Each from a new port, that is, as a connection that no worker knows.
    for index in [2, 0, 1] {
        for from in CLIENTS {
            let who = who_answers(&scene, from, &short_header(0x50 + index))?;
            assert_eq!(who, format!("s{}", index + 1), "from {from}");
        }
    }
    // What a client made up names nobody: all of them get some.
    let mut who =
        (0..12).map(|_| who_answers(&scene, CLIENTS[0], &initial(0x50))).collect::<Result<Vec<_>>>()?;
    who.sort();
    who.dedup();
    assert_eq!(who, ["s1", "s2", "s3"]);
    scene.director.until_metrics("what was routed, and what was made up", |metrics| {
        metrics.sum("lb_quic_lb_routed_total", &[]) == 9.0
            && metrics.sum("lb_quic_lb_scheduled_total", &["reason=\"made_up\""]) == 12.0
    })
}
