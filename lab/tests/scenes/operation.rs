//! Goal: what an operator does to a director in service hurts nobody.
//! Method: connections are held open across the operation; what stays is compared with what Linux says is there.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::client::KeptOpen;
use lab::metrics::Metrics;
use lab::server::{self, ECHO_PORT, HTTP_PORT};
use lab::topology::{self, VIP};
use lab::{Director, LbdPlan, PATIENCE, Plan, Scene, until};
use nix::sys::signal::Signal;

/// The TCP service on the VIP over the servers of these indices.
fn service_over(servers: &[u8]) -> String {
    let servers: Vec<(SocketAddr, u32)> = servers
        .iter()
        .map(|index| (SocketAddr::new(topology::server(*index).into(), HTTP_PORT), 1))
        .collect();
    LbdPlan::service(SocketAddr::new(VIP.into(), 80), "tcp", "rr", &servers)
}

fn plan_over(servers: &[u8]) -> LbdPlan {
    LbdPlan { services: service_over(servers), ..LbdPlan::default() }
}

/// Whether all workers use the tables that were published last.
fn are_up_to_date(metrics: &Metrics) -> bool {
    let published = metrics.sum("lb_tables_generation", &[]);
    metrics.with_prefix("lb_worker_generation").iter().all(|(_, used)| *used == published)
}

/// A connection that the given real server answers, found by opening as many as it takes.
fn connection_to(scene: &Scene, role: &str) -> Result<KeptOpen> {
    for _ in 0..10 {
        let mut connection = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
        if connection.get("/")? == format!("{role}\n").as_bytes() {
            return Ok(connection);
        }
    }
    anyhow::bail!("none of ten connections went to {role}")
}

#[test]
fn the_connection_listing_is_what_is_really_open() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1, 2]))?;
    let mut held = Vec::new();
    for _ in 0..9 {
        let mut connection = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
        connection.get("/")?;
        held.push(connection);
    }
    let mut open = BTreeSet::new();
    for (index, server) in (0_u8..).zip(scene.lab.servers()) {
        for line in server.run(60, "ss", &["-Htn", "state", "established", "sport = :8080"])?.lines() {
            let peer = line.split_whitespace().nth(3).context("ss: no peer")?;
            open.insert((peer.to_owned(), format!("{}:{HTTP_PORT}", topology::server(index))));
        }
    }
    assert_eq!(open.len(), 9, "{open:?}");
    let listing = scene.director.ipvsadm("-L -n -c")?;
    let listed: BTreeSet<_> = listing
        .lines()
        .filter(|line| line.contains(" ESTABLISHED "))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some((fields.get(3)?.to_string(), fields.get(5)?.to_string()))
        })
        .collect();
    assert_eq!(listed, open, "{listing}");
    Ok(())
}

#[test]
fn a_download_survives_a_reload_that_replaces_its_server_and_new_ones_go_elsewhere() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1]))?;
    let content = server::serve_file(&scene.lab, "large", 48)?;
    let mut download = connection_to(&scene, "s1")?;
    let mut other = connection_to(&scene, "s2")?;
    download.ask("/files/large")?;
    let mut is_reloaded = false;
    let mut reload = Ok(());
    let copy = download.read(&mut |bytes| {
        // Far more is still to come than all buffers on the way hold.
        if bytes > 1 << 20 && !is_reloaded {
            is_reloaded = true;
            reload = scene.director.reload(&plan_over(&[0, 2])).and_then(|()| {
                until("the new server list", PATIENCE, || {
                    let listing = scene.director.ipvsadm("-L -n").ok()?;
                    (listing.contains("10.0.0.13:8080") && !listing.contains("10.0.0.12:8080")).then_some(())
                })
            });
        }
    })?;
    reload?;
    assert!(copy == content, "the copy differs");
    scene.director.until_metrics("workers that go by it", are_up_to_date)?;
    assert_eq!(scene.who_serves(VIP, 4)?, ["s1", "s1", "s3", "s3"]);
    other.set_patience(Duration::from_millis(500))?;
    assert!(other.get("/").is_err(), "the removed server still got requests");
    Ok(())
}

#[test]
fn a_reload_with_a_mistake_changes_nothing_and_says_what_is_wrong() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1]))?;
    let before = scene.director.ipvsadm("-S -n")?;
    let services = service_over(&[2]).replace("weight = 1", "weight = 70000");
    scene.director.reload(&LbdPlan { services, ..LbdPlan::default() })?;
    until("the message about the weight", PATIENCE, || scene.director.log().contains("70000").then_some(()))?;
    assert_eq!(scene.director.ipvsadm("-S -n")?, before);
    assert_eq!(scene.who_serves(VIP, 2)?, ["s1", "s2"]);
    Ok(())
}

#[test]
fn a_quiesced_server_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1]))?;
    let mut held = connection_to(&scene, "s1")?;
    scene.director.ipvsadm("-e -t 192.0.2.10:80 -r 10.0.0.11:8080 -m -w 0")?;
    assert_eq!(scene.who_serves(VIP, 4)?, ["s2"; 4]);
    assert_eq!(held.get("/")?, b"s1\n");
    Ok(())
}

#[test]
fn a_removed_server_gets_nothing_until_it_is_added_again() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1]))?;
    let mut held = connection_to(&scene, "s1")?;
    scene.director.ipvsadm("-d -t 192.0.2.10:80 -r 10.0.0.11:8080")?;
    assert_eq!(scene.who_serves(VIP, 2)?, ["s2"; 2]);
    held.set_patience(Duration::from_millis(500))?;
    held.ask("/")?;
    assert!(held.read(&mut |_| ()).is_err(), "the removed server was asked");
    scene.director.ipvsadm("-a -t 192.0.2.10:80 -r 10.0.0.11:8080 -m")?;
    // The client's TCP sends the request again by itself.
    held.set_patience(PATIENCE)?;
    assert_eq!(held.read(&mut |_| ())?, b"s1\n");
    Ok(())
}

#[test]
fn services_are_made_and_taken_away_while_others_serve() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0]))?;
    let mut held = connection_to(&scene, "s1")?;
    scene.director.ipvsadm("-A -t 192.0.2.10:8081 -s rr")?;
    scene.director.ipvsadm("-a -t 192.0.2.10:8081 -r 10.0.0.12:8080 -m")?;
    let url = lab::client::url(VIP.into(), 8081, "/");
    assert_eq!(lab::client::curl(scene.lab.client(), &url)?, "s2\n");
    scene.director.ipvsadm("-D -t 192.0.2.10:8081")?;
    assert!(lab::client::curl(scene.lab.client(), &url).is_err());
    assert_eq!(held.get("/")?, b"s1\n");
    Ok(())
}

/// One flow asks, and asks again as soon as it is answered, all the while.
#[test]
fn no_datagram_is_lost_while_thousands_of_services_come_change_and_go() -> Result<()> {
    const SERVICES: u16 = 2000;
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let service = |n| format!("\"service\":\"tcp/192.0.2.10:{}\"", 10_000 + n);
    let server = |n: u16, m, weight| {
        let server = format!("\"server\":\"10.0.0.1{}:{}\",\"weight\":{weight}", 1 + m % 3, 1 + m);
        format!("{{{},\"server\":{{{server}}}}}", service(n))
    };
    let add = (0..SERVICES).flat_map(|n| {
        let servers = (0..10).map(move |m| format!("{{\"add_server\":{}}}", server(n, m, 1)));
        std::iter::once(format!("{{\"add_service\":{{{}}}}}", service(n))).chain(servers)
    });
    let add = add.collect::<Vec<_>>().join(",");

    let socket = scene.lab.client().enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.connect((VIP, ECHO_PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let ask = || -> Result<()> {
        socket.send(b"?")?;
        socket.recv(&mut [0; 64]).map(drop).context("a datagram or its answer was lost")
    };
    // Who answers and whose answers come through is known from here on.
    ask()?;
    let dropped = scene.director.metrics()?.sum("lb_drops_total", &[]);
    let is_done = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asking = scope.spawn(|| -> Result<u64> {
            let mut asked = 0;
            while !is_done.load(Relaxed) {
                ask()?;
                asked += 1;
            }
            Ok(asked)
        });
        let work = || -> Result<()> {
            for round in 0..3 {
                scene.director.commands(&add)?;
                for n in 0..200 {
                    let edit = server(n * 9, n % 10, n + round);
                    scene.director.commands(&format!("{{\"edit_server\":{edit}}}"))?;
                }
                let gone: Vec<_> =
                    (0..SERVICES).map(|n| format!("{{\"delete_service\":{{{}}}}}", service(n))).collect();
                scene.director.commands(&gone.join(","))?;
            }
            Ok(())
        };
        let worked = work();
        is_done.store(true, Relaxed);
        let asked = asking.join().map_err(|_| anyhow::anyhow!("the asking panicked"))?;
        worked.and(asked)
    })?;
    println!("{asked} datagrams were answered meanwhile");
    anyhow::ensure!(asked > 100, "{asked} datagrams in all");
    assert_eq!(scene.director.metrics()?.sum("lb_drops_total", &[]), dropped);
    Ok(())
}

#[test]
fn a_rule_for_a_service_that_is_not_there_fails_as_ipvsadm_does() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0]))?;
    let before = scene.director.ipvsadm("-S -n")?;
    let output = scene.director.ipvsadm_output("-a -t 192.0.2.99:80 -r 10.0.0.12:8080 -m")?;
    assert_eq!(output.status.code(), Some(255));
    assert!(!output.stderr.is_empty());
    assert_eq!(scene.director.ipvsadm("-S -n")?, before);
    Ok(())
}

#[test]
fn statistics_count_what_went_through() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan_over(&[0, 1, 2]))?;
    scene.who_serves(VIP, 9)?;
    let vip = ["local_address=\"192.0.2.10\"", "local_port=\"80\""];
    // A client has its page before the last packets of its connection have come by.
    scene.director.until_metrics("nine connections, all over", |metrics| {
        metrics.sum("lb_ipvs_connections_total", &[]) == 9.0
            // SYN, ACK, request, FIN, and the acknowledgement of the server's FIN at the least.
            && metrics.sum("lb_ipvs_incoming_packets_total", &[]) >= 9.0 * 5.0
            && metrics.sum("lb_ipvs_outgoing_bytes_total", &[]) > 9.0 * 200.0
            && metrics.sum("lb_ipvs_backend_connections_inactive", &vip) == 9.0
    })?;
    let metrics = scene.director.metrics()?;
    assert_eq!(metrics.sum("lb_ipvs_connections_total", &[]), 9.0);
    assert_eq!(metrics.sum("lb_ipvs_backend_weight", &vip), 3.0);
    let listing = scene.director.ipvsadm("-L -n --stats")?;
    for server in ["10.0.0.11:8080", "10.0.0.12:8080", "10.0.0.13:8080"] {
        let row = listing.lines().find(|line| line.contains(server)).context("no row of the server")?;
        assert_eq!(row.split_whitespace().nth(2), Some("3"), "{listing}");
    }
    Ok(())
}

#[test]
fn what_was_made_by_command_is_there_after_a_kill_and_after_a_stop() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &plan_over(&[0, 1]))?;
    scene.director.ipvsadm("-A -t 192.0.2.10:8081 -s wlc")?;
    scene.director.ipvsadm("-a -t 192.0.2.10:8081 -r 10.0.0.12:8080 -m -w 7")?;
    scene.director.ipvsadm("-e -t 192.0.2.10:80 -r 10.0.0.11:8080 -m -w 0")?;
    scene.director.ipvsadm("--set 0 0 77")?;
    let state = |scene: &Scene| {
        Ok::<_, anyhow::Error>([scene.director.ipvsadm("-S -n")?, scene.director.ipvsadm("-L --timeout")?])
    };
    let before = state(&scene)?;
    scene.director.process().signal(Signal::SIGKILL)?;
    scene.director.process().wait(PATIENCE)?;
    scene.director = Director::start(&scene.lab, &plan_over(&[0, 1]))?;
    assert_eq!(state(&scene)?, before);

    // The file names a third server meanwhile.
    scene.director.process().signal(Signal::SIGTERM)?;
    scene.director.process().wait(PATIENCE)?;
    scene.director = Director::start(&scene.lab, &plan_over(&[0, 1, 2]))?;
    let third = "-a -t 192.0.2.10:80 -r 10.0.0.13:8080 -m -w 1\n";
    let after = state(&scene)?;
    assert!(after[0].contains(third), "{after:?}");
    assert_eq!([after[0].replace(third, ""), after[1].clone()], before);
    assert_eq!(scene.who_serves(VIP, 4)?, ["s2", "s2", "s3", "s3"]);
    let url = lab::client::url(VIP.into(), 8081, "/");
    assert_eq!(lab::client::curl(scene.lab.client(), &url)?, "s2\n");
    Ok(())
}

#[test]
fn a_draining_director_serves_its_connections_and_no_others_until_a_second_signal() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan { drain_secs: 600, ..plan_over(&[0, 1]) })?;
    let mut held = connection_to(&scene, "s1")?;
    scene.director.process().signal(Signal::SIGTERM)?;
    let said = until("not ready", PATIENCE, || match scene.director.get("/readyz") {
        Ok((503, said)) => Some(said),
        _ => None,
    })?;
    assert!(said.starts_with("draining: ") && said.contains("connections are left"), "{said}");
    let moment = Duration::from_millis(500);
    let refused = KeptOpen::connect_within(scene.lab.client(), SocketAddr::new(VIP.into(), 80), moment);
    assert!(refused.is_err());
    assert!(scene.director.metrics()?.sum("lb_drops_total", &["reason=\"draining\""]) > 0.0);
    // What the operator does meanwhile is done.
    scene.director.ipvsadm("-A -t 192.0.2.10:8081 -s rr")?;
    scene.director.reload(&LbdPlan { drain_secs: 600, ..plan_over(&[0, 1, 2]) })?;
    until("the third server", PATIENCE, || {
        scene.director.ipvsadm("-L -n").ok().filter(|listing| listing.contains("10.0.0.13:8080"))
    })?;
    assert_eq!(held.get("/")?, b"s1\n");
    let (status, log) = scene.director.stop()?;
    assert!(status.success(), "{status}: {log}");
    assert!(log.lines().any(|line| line.contains("drained") && line.contains("SIGTERM")), "{log}");
    Ok(())
}

#[test]
fn draining_ends_with_the_last_connection() -> Result<()> {
    let services = LbdPlan::usual_services(1, "rr") + "[timeouts]\nudp = 1\n";
    let scene = Scene::up(&Plan::default(), &LbdPlan { drain_secs: 600, services, ..LbdPlan::default() })?;
    scene.who_echoes(VIP, 3)?;
    let (status, log) = scene.director.stop()?;
    assert!(status.success(), "{status}: {log}");
    let drained = log.lines().find(|line| line.contains("drained")).context(log.clone())?;
    assert!(drained.contains("no connection is left") && drained.contains("connections=0"), "{drained}");
    Ok(())
}
