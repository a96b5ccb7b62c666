//! Goal: the director's Linux twins behave as its interfaces.
//! Method: clients talk to the director itself; the operator uses `ip` on the twins.

use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::Result;
use lab::server::Sink;
use lab::topology::{CLIENT, DIRECTOR, DIRECTOR_V6, GATEWAY, GATEWAY_V6, VIP, VIP_V6, WAN_LINK};
use lab::{LbdPlan, PATIENCE, Plan, Scene, client, until};

/// Where no answer is no failure: it is asked again, or not wanted.
const QUICK: &[&str] = &["-W", "0.3"];

#[test]
fn pings_to_the_director_and_to_the_virtual_address_are_answered() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for address in [IpAddr::V4(DIRECTOR), DIRECTOR_V6.into(), VIP.into(), VIP_V6.into()] {
        assert_eq!(client::ping(scene.lab.client(), address, 3, &[])?, 3, "to {address}");
    }
    for address in [IpAddr::V4(GATEWAY), GATEWAY_V6.into()] {
        assert_eq!(client::ping(&scene.lab.servers()[0], address, 3, &[])?, 3, "to {address}");
    }
    assert_eq!(client::ping(scene.lab.director(), CLIENT.into(), 3, &[])?, 3, "from the director");
    Ok(())
}

#[test]
fn a_service_of_the_director_itself_is_reached_through_the_twin() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for address in [IpAddr::V4(DIRECTOR), DIRECTOR_V6.into()] {
        let server = SocketAddr::new(address, 2222);
        let _sshd_like = Sink::start(scene.lab.director(), server)?;
        let sent = vec![7_u8; 300_000];
        let answered = scene.lab.client().enter(|| -> std::io::Result<String> {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(server)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&sent)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        assert_eq!(answered, "300000", "over {address}");
    }
    Ok(())
}

#[test]
fn an_address_added_on_the_twin_is_answered_and_a_removed_one_is_not() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let added: IpAddr = "192.0.2.77".parse()?;
    assert_eq!(client::ping(scene.lab.client(), added, 1, QUICK)?, 0);
    scene.lab.director().ip("addr add 192.0.2.77/32 dev wan")?;
    until("an answer to ping", PATIENCE, || {
        client::ping(scene.lab.client(), added, 1, QUICK).is_ok_and(|answers| answers == 1).then_some(())
    })?;
    scene.lab.director().ip("addr del 192.0.2.77/32 dev wan")?;
    until("no answer to ping", PATIENCE, || {
        client::ping(scene.lab.client(), added, 1, QUICK).is_ok_and(|answers| answers == 0).then_some(())
    })
}

#[test]
fn a_port_without_a_link_is_a_twin_without_a_carrier() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let director = scene.lab.director();
    let until_said = |ready: u16, says: &str, carrier: &str| {
        until("readiness and the carrier", PATIENCE, || {
            let (status, text) = scene.director.get("/readyz").ok()?;
            let seen = director.ip("-br link show dev wan").ok()?;
            ((status, text.contains(says), seen.contains(carrier)) == (ready, true, true)).then_some(())
        })
    };
    director.ip(&format!("link set {WAN_LINK} down"))?;
    until_said(503, "port wan: no link", "NO-CARRIER")?;
    director.ip(&format!("link set {WAN_LINK} up"))?;
    until_said(200, "", "LOWER_UP")?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    Ok(())
}

#[test]
fn a_server_that_changes_its_mac_address_is_found_again() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    let replaced = &scene.lab.servers()[0];
    replaced.ip("link set eth0 down")?;
    replaced.ip("link set eth0 address 02:00:00:00:00:99")?;
    replaced.ip("link set eth0 up")?;
    replaced.ip("route add default via 10.0.0.1")?;
    // As a replaced host does when it comes up: it talks to its gateway, which learns the new address from that.
    until("an answer from the gateway", PATIENCE, || {
        client::ping(replaced, GATEWAY.into(), 1, QUICK).is_ok_and(|answers| answers == 1).then_some(())
    })?;
    until("all three serving", PATIENCE, || {
        scene.who_serves(VIP, 3).ok().filter(|who| who == &["s1", "s2", "s3"]).map(|_| ())
    })
}

#[test]
fn a_port_that_no_service_takes_is_refused_by_the_directors_own_stack() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let closed = SocketAddr::new(VIP.into(), 4444);
    let refused = client::KeptOpen::connect(scene.lab.client(), closed).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
    let listener = scene.lab.director().enter(|| TcpListener::bind(closed))??;
    client::KeptOpen::connect(scene.lab.client(), closed)?;
    drop(listener);
    Ok(())
}
