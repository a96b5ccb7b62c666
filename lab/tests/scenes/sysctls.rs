//! Goal: what the kernel's IPVS has as sysctls does to real clients and servers what it is named for.
//! Method: clients through `drop_packet`, which costs a client its SYN and the second after which it sends it again, no more; a socket on a
//! real server that the director tells of a connection that is not there.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{self, CLIENT, VIP};
use lab::{LbdPlan, PATIENCE, Plan, Scene, client};

#[test]
fn drop_packet_drops_one_syn_in_so_many_and_every_client_comes_through() -> Result<()> {
    let services = LbdPlan::usual_services(3, "rr") + "[sysctl]\ndrop_packet = 3\nam_droprate = 4\n";
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    let shed = |scene: &Scene| -> Result<f64> {
        Ok(scene.director.metrics()?.sum("lb_drops_total", &["reason=\"shed\"", "hook=\"input\""]))
    };
    // 9 begin at once: each third is followed by one that is dropped and sent again.
    let begin = || {
        let mut open = client::KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
        open.get("/")?;
        Ok(open)
    };
    let open: Vec<std::io::Result<_>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..9).map(|_| scope.spawn(begin)).collect();
        all.into_iter().filter_map(|one| one.join().ok()).collect()
    });
    let mut open = open.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!((open.len(), shed(&scene)?), (9, 2.0));
    let before = shed(&scene)?;
    for _ in 0..3 {
        for connection in &mut open {
            connection.get("/")?;
        }
    }
    assert_eq!(shed(&scene)?, before, "a connection that there is loses nothing");
    Ok(())
}

#[test]
fn nat_icmp_send_tells_a_real_server_that_nobody_waits_for_its_datagram() -> Result<()> {
    let port = ECHO_PORT + 1;
    let services = format!(
        "[[virtual_service]]\naddress = \"{VIP}:{port}\"\nprotocol = \"udp\"\nreal_servers = [{{ address = \"{}:{port}\" }}]\n\
         [sysctl]\nnat_icmp_send = 0\n",
        topology::server(0)
    );
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    // Whoever listens there says nothing.
    let _silent = scene.lab.client().enter(|| UdpSocket::bind((CLIENT, 9)))??;
    for refused in [false, true] {
        if refused {
            scene.director.run_lbctl("sysctl nat_icmp_send=1")?;
        }
        let answer = scene.lab.servers()[0].enter(|| -> std::io::Result<usize> {
            let socket = UdpSocket::bind((topology::server(0), port))?;
            socket.connect((CLIENT, 9))?;
            socket.set_read_timeout(Some(if refused { PATIENCE } else { Duration::from_millis(500) }))?;
            socket.send(b"unasked")?;
            socket.recv(&mut [0; 10])
        })?;
        let kind = answer.expect_err("nobody answers").kind();
        ensure!((kind == ErrorKind::ConnectionRefused) == refused, "told: {refused}, heard: {kind}");
    }
    Ok(())
}
