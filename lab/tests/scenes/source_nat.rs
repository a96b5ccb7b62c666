//! Goal: with `net.ipv4.vs.conntrack` a MASQUERADE rule serves real clients by masqueraded real servers that have no route to them, as kube-proxy and one-arm
//! LVS-NAT do. Method: the real servers' default routes are taken away; curl and UDP, before and after the rule.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{CLIENT, GATEWAY, VIP};
use lab::{LbdPlan, Plan, Scene, client};

#[test]
fn a_masquerade_rule_serves_clients_that_real_servers_have_no_route_to() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for server in scene.lab.servers() {
        server.ip("route del default")?;
    }
    let echo = SocketAddr::new(VIP.into(), ECHO_PORT);
    ensure!(client::ask_in_vain(scene.lab.client(), echo, b"?").is_err(), "it has no way back");
    scene.director.run_lbctl("sysctl conntrack=1")?;
    scene
        .director
        .run_lbctl(&format!("iptables -t nat -A POSTROUTING -m ipvs --vaddr {VIP} -j MASQUERADE"))?;
    let page = client::url(VIP.into(), 80, "/");
    let mut who = (0..3).map(|_| client::curl(scene.lab.client(), &page)).collect::<Result<Vec<_>>>()?;
    who.sort();
    assert_eq!(who.concat(), "s1\ns2\ns3\n");
    let answer = client::ask(scene.lab.client(), echo, b"!")?;
    ensure!(answer.ends_with(b"!"), "{answer:?}");
    let listed = scene.director.run_lbctl("conntrack -L -p tcp -n")?;
    ensure!(listed.lines().count() >= 3, "{listed}");
    for line in listed.lines() {
        ensure!(line.contains(&format!(" src={CLIENT} dst={VIP} ")), "{line}");
        ensure!(line.contains(&format!(" dst={GATEWAY} ")) && line.contains("[ASSURED]"), "{line}");
    }
    Ok(())
}
