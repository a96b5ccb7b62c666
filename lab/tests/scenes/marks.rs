//! Goal: a service by firewall mark takes what the config file's rules mark, or table mangle does, whatever its port and protocol, and its
//! clients keep one real server for all of it.
//! Method: one mark for all of the virtual service's address over IPv4, one for a port over IPv6; then what operators type for two ports in
//! one service; real clients and servers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use lab::server::{ECHO_PORT, HTTP_PORT};
use lab::topology::{VIP, VIP_V6};
use lab::{Driver, LbdPlan, Namespace, Plan, Scene, client, topology};

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

/// Answers with the host's name on this port, for as long as the test runs.
fn answer(namespace: &Namespace, port: u16) -> Result<()> {
    let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))??;
    let answer = format!("HTTP/1.0 200 OK\r\n\r\n{}\n", namespace.role());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Closed before it was read a request would be answered with an RST.
            let mut request = [0; 1024];
            if matches!(stream.read(&mut request), Ok(1..)) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    Ok(())
}

#[test]
fn two_ports_that_mangle_marks_are_one_persistent_service() -> Result<()> {
    for workers in [vec![1], vec![0, 1]] {
        let lbd = LbdPlan {
            driver: Driver::AfPacket,
            services: String::new(),
            workers: workers.clone(),
            ..LbdPlan::default()
        };
        let scene = Scene::up(&Plan::default(), &lbd)?;
        let client = scene.lab.client();
        for server in scene.lab.servers() {
            answer(server, 80)?;
            answer(server, 443)?;
        }
        let mark =
            "iptables -t mangle -A PREROUTING -p tcp -m multiport --dports 80,443 -j MARK --set-mark 1";
        let status = scene.director.lbctl(&mark.split(' ').collect::<Vec<_>>())?.status()?;
        ensure!(status.success(), "{mark}: {status}");
        scene.director.ipvsadm("-A -f 1 -s rr -p 300")?;
        for index in 0..3 {
            scene.director.ipvsadm(&format!("-a -f 1 -r {} -m", topology::server(index)))?;
        }
        let mut served = BTreeSet::new();
        for _ in 0..4 {
            for port in [80, 443] {
                served.insert(client::curl(client, &client::url(VIP.into(), port, "/"))?);
            }
        }
        assert_eq!(served.len(), 1, "one real server for both ports: {served:?}");
        let connections = scene.director.ipvsadm("-L -n -c")?;
        let template = connections.lines().filter(|line| line.contains("0.0.0.1:0")).count();
        ensure!(template == 1, "{workers:?}: {connections}");
        let refused = client::curl(client, &client::url(VIP.into(), 8080, "/"));
        ensure!(refused.is_err(), "what has no mark is not for the service: {refused:?}");
        let (status, said) = scene.director.get("/readyz")?;
        ensure!(status == 200, "the host refused it, whose answer went by both workers: {said}");
    }
    Ok(())
}
