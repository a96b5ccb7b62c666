//! Goal: a service by prefix takes every address of it that is the director's, the longest prefix first, and another address has a
//! service of its own all the same.
//! Method: the prefixes are made the director's as an operator does it (`ip route add local`), the client routes them there; curl, nginx.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lab::server::HTTP_PORT;
use lab::topology::{VIP, VIP_V6};
use lab::{LbdPlan, PATIENCE, Plan, Scene, client, until};

fn services() -> String {
    let service = |address: &str, servers: &[String]| {
        let servers: String =
            servers.iter().map(|server| format!("{{ address = \"{server}\" }}, ")).collect();
        format!(
            "[[virtual_service]]\naddress = \"{address}\"\nscheduler = \"rr\"\nreal_servers = [{servers}]\n"
        )
    };
    let ipv4 = |index| format!("{}:{HTTP_PORT}", lab::topology::server(index));
    let ipv6 = |index| format!("[{}]:{HTTP_PORT}", lab::topology::server_v6(index));
    [
        service("203.0.113.0/24:80", &[ipv4(0), ipv4(1)]),
        service("203.0.113.128/25:80", &[ipv4(2)]),
        service("203.0.113.5:80", &[ipv4(2)]),
        service("[2001:db8:77::/64]:80", &[ipv6(0), ipv6(1)]),
    ]
    .concat()
}

#[test]
fn every_address_of_a_prefix_is_served_and_the_longest_prefix_wins() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan { services: services(), ..LbdPlan::default() })?;
    let (client, director) = (scene.lab.client(), scene.lab.director());
    client.ip(&format!("route add 203.0.113.0/24 via {VIP}"))?;
    client.ip(&format!("-6 route add 2001:db8:77::/64 via {VIP_V6}"))?;
    director.ip("route add local 203.0.113.0/24 dev wan")?;
    director.ip("-6 route add local 2001:db8:77::/64 dev wan")?;
    let who = |address: &str, times: usize| -> Result<String> {
        let page = client::url(address.parse::<IpAddr>()?, 80, "/");
        let mut who = (0..times).map(|_| client::curl(client, &page)).collect::<Result<Vec<_>>>()?;
        who.sort();
        Ok(who.concat().replace('\n', " "))
    };
    // The mirror of Linux follows.
    until("the prefix is the director's", PATIENCE, || who("203.0.113.5", 1).ok())?;
    assert_eq!(who("203.0.113.5", 2)?, "s3 s3 ", "the address before the prefix");
    let mut both = [who("203.0.113.1", 1)?, who("203.0.113.77", 1)?];
    both.sort();
    assert_eq!(both, ["s1 ", "s2 "], "rr goes on from one address to the next");
    assert_eq!(who("203.0.113.200", 2)?, "s3 s3 ", "the longer prefix");
    until("the IPv6 prefix is the director's", PATIENCE, || who("2001:db8:77::1", 1).ok())?;
    assert_eq!(who("2001:db8:77::abcd", 2)?, "s1 s2 ");

    let saved = scene.director.ipvsadm("-S -n")?;
    for line in ["-A -t 203.0.113.0/24:80 -s rr", "-A -t [2001:db8:77::/64]:80 -s rr"] {
        ensure!(saved.lines().any(|saved| saved == line), "{saved}");
    }
    let metrics = scene.director.metrics()?;
    let weight =
        metrics.sum("lb_ipvs_backend_weight", &["local_address=\"203.0.113.0/24\"", "local_port=\"80\""]);
    assert_eq!(weight, 2.0);
    // Deleted and made again as typed.
    scene.director.ipvsadm("-D -t 203.0.113.128/25:80")?;
    until("the shorter prefix takes over", PATIENCE, || {
        who("203.0.113.200", 2).is_ok_and(|who| who == "s1 s2 ").then_some(())
    })?;
    Ok(())
}
