//! Goal: a service by firewall mark takes what the config file's rules mark, whatever its port and protocol, and its clients keep one
//! real server for all of it.
//! Method: one mark for all of the virtual service's address over IPv4, one for a port over IPv6; real clients and servers.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::server::{ECHO_PORT, HTTP_PORT};
use lab::topology::{VIP, VIP_V6};
use lab::{LbdPlan, Plan, Scene, client, topology};

fn services() -> String {
    let servers = |address: &dyn Fn(u8) -> String| -> String {
        (0..3).map(|index| format!("{{ address = \"{}\" }}, ", address(index))).collect()
    };
    format!(
        "[[virtual_service]]\nfwmark = 7\nscheduler = \"rr\"\npersistence = 100\nreal_servers = [{}]\n\
         [[virtual_service]]\nfwmark = 4294967295\nfamily = \"ipv6\"\nscheduler = \"rr\"\nreal_servers = [{}]\n\
         [[mark]]\nmark = 7\ndestination = \"{VIP}\"\n\
         [[mark]]\nmark = 4294967295\ndestination = \"{VIP_V6}\"\nprotocol = \"tcp\"\ndestination_ports = \"{HTTP_PORT}\"\n",
        servers(&|index| topology::server(index).to_string()),
        servers(&|index| topology::server_v6(index).to_string()),
    )
}

#[test]
fn a_service_by_mark_takes_every_port_and_protocol_that_is_marked() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan { services: services(), ..LbdPlan::default() })?;
    let client = scene.lab.client();
    let page = client::url(VIP.into(), HTTP_PORT, "/");
    let who = client::curl(client, &page)?.trim().to_owned();
    for _ in 0..4 {
        assert_eq!(client::curl(client, &page)?.trim(), who, "the client keeps its real server");
        let answer = client::ask(client, SocketAddr::new(VIP.into(), ECHO_PORT), b"?")?;
        assert_eq!(String::from_utf8_lossy(&answer), format!("{who} ?"), "for UDP too");
    }
    let listed = scene.director.ipvsadm("-L -n")?;
    ensure!(listed.contains("FWM  7 rr persistent 100") && listed.contains("FWM  -1 IPv6 rr"), "{listed}");
    let connections = scene.director.ipvsadm("-L -n -c")?;
    let template = connections.lines().find(|line| line.contains(":0 ")).unwrap_or_default();
    ensure!(template.starts_with("IP ") && template.contains("0.0.0.7:0"), "{connections}");

    let page = client::url(VIP_V6.into(), HTTP_PORT, "/");
    let mut who = (0..3).map(|_| client::curl(client, &page)).collect::<Result<Vec<_>>>()?;
    who.sort();
    assert_eq!(who.concat(), "s1\ns2\ns3\n", "rr over IPv6");
    let other = client::ask(client, SocketAddr::new(VIP_V6.into(), ECHO_PORT), b"?");
    ensure!(other.is_err(), "what has no mark is not for the service: {other:?}");
    let metrics = scene.director.metrics()?;
    let of_mark = metrics.sum("lb_ipvs_backend_weight", &["proto=\"FWM\"", "local_mark=\"00000007\""]);
    assert_eq!(of_mark, 3.0);
    Ok(())
}
