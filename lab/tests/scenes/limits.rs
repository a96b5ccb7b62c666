//! Goal: what a virtual service and each source of clients may have at once, and begin in a second, is what they get: what exceeds it is refused silently, counted,
//! told as an alarm, and let in when there is room.
//! Method: nginx, connections that clients keep open or open all at a time, from addresses of two networks; `ipvsadm` as an operator types it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::client::KeptOpen;
use lab::topology::{CLIENT, VIP};
use lab::{LbdPlan, PATIENCE, Plan, Scene, client, until};

/// Within it an answer comes, and a client's TCP does not send a SYN again (RFC 6298: after a second).
const MOMENT: Duration = Duration::from_millis(300);
/// Of the client's network of 26 bits, and of another one.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 201);

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(VIP), 80);

fn scene() -> Result<Scene> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for address in [NEIGHBOUR, STRANGER] {
        scene.lab.client().ip(&format!("addr add {address}/24 dev eth0"))?;
    }
    Ok(scene)
}

/// Other limits, and none of those before.
fn limit(scene: &Scene, options: &str) -> Result<()> {
    scene.director.ipvsadm(&format!("-E -t {SERVICE} -s rr {options}"))?;
    let saved = scene.director.ipvsadm("-S -n")?;
    ensure!(saved.contains(&format!("-A -t {SERVICE} -s rr {options}\n")), "{saved}");
    Ok(())
}

/// A connection from this address that has got a page, and is kept open.
fn held(scene: &Scene, from: Ipv4Addr) -> Result<KeptOpen> {
    let mut connection = KeptOpen::connect_from(scene.lab.client(), from, SERVICE, PATIENCE)?;
    ensure!(connection.get("/")?.starts_with(b"s"));
    Ok(connection)
}

fn is_refused(scene: &Scene, from: Ipv4Addr) -> Result<()> {
    let refused = KeptOpen::connect_from(scene.lab.client(), from, SERVICE, MOMENT).map(drop);
    ensure!(
        refused.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut),
        "from {from}: {refused:?}"
    );
    Ok(())
}

/// How many connections this limit refused, at the service and among what is dropped.
fn refused(scene: &Scene, limit: &str) -> Result<f64> {
    let metrics = scene.director.metrics()?;
    let by_service = metrics.sum(
        "lb_ipvs_limited_connections_total",
        &["local_port=\"80\"", &format!("local_address=\"{VIP}\""), &format!("limit=\"{limit}\"")],
    );
    let reason = if limit.starts_with("source") { limit.to_owned() } else { format!("service_{limit}") };
    let dropped = metrics.sum("lb_drops_total", &[&format!("reason=\"{reason}\"")]);
    ensure!(by_service == dropped, "{limit}: {by_service} at the service, {dropped} of what is dropped");
    Ok(by_service)
}

/// They are looked for every other second, and stay for a minute.
fn until_alarms(scene: &Scene, alarms: &[&str]) -> Result<()> {
    until(&format!("alarms: {alarms:?}"), PATIENCE, || {
        let status = scene.director.run_lbctl("status").ok()?;
        alarms.iter().all(|alarm| status.contains(&format!("alarm: {alarm}"))).then_some(())
    })
}

/// curl comes through.
fn is_served(scene: &Scene, from: Ipv4Addr) -> Result<()> {
    let (from, url) = (from.to_string(), client::url(VIP.into(), 80, "/"));
    let arguments = ["--silent", "--show-error", "--fail", "--max-time", "50", "--interface", &from, &url];
    ensure!(scene.lab.client().run(60, "curl", &arguments)?.starts_with('s'));
    Ok(())
}

/// A client that tries again and again comes through.
fn until_served(scene: &Scene, from: Ipv4Addr) -> Result<()> {
    until(&format!("a page for {from}"), PATIENCE, || {
        let mut connection = KeptOpen::connect_from(scene.lab.client(), from, SERVICE, MOMENT).ok()?;
        connection.get("/").ok().filter(|page| page.starts_with(b"s")).map(drop)
    })
}

#[test]
fn a_service_and_a_source_have_no_more_connections_than_they_may_until_one_ends() -> Result<()> {
    let scene = scene()?;
    let counted = |scene: &Scene| -> Result<f64> {
        Ok(scene.director.metrics()?.sum("lb_ipvs_conn_limit_connections", &["local_port=\"80\""]))
    };
    limit(&scene, "--conn-limit 3")?;
    let mut open = vec![held(&scene, CLIENT)?, held(&scene, NEIGHBOUR)?, held(&scene, STRANGER)?];
    assert_eq!((counted(&scene)?, refused(&scene, "conn_limit")?), (3.0, 0.0));
    is_refused(&scene, CLIENT)?;
    assert_eq!((counted(&scene)?, refused(&scene, "conn_limit")?), (3.0, 1.0));
    let listed = scene.director.run_lbctl("services")?;
    ensure!(listed.contains(" 3/3 ") && listed.contains("as many connections as it may have"), "{listed}");
    for connection in &mut open {
        ensure!(connection.get("/")?.starts_with(b"s"), "those that there are go on");
    }
    drop(open.pop());
    until("one ends", PATIENCE, || counted(&scene).is_ok_and(|count| count == 2.0).then_some(()))?;
    is_served(&scene, CLIENT)?;

    drop(open);
    limit(&scene, "--source-conn-limit 2 --source-prefix 26")?;
    let mut open = vec![held(&scene, CLIENT)?, held(&scene, NEIGHBOUR)?];
    is_refused(&scene, CLIENT)?;
    is_refused(&scene, NEIGHBOUR)?;
    assert_eq!(refused(&scene, "source_conn_limit")?, 2.0);
    let _of_another_source = [held(&scene, STRANGER)?, held(&scene, STRANGER)?];
    is_refused(&scene, STRANGER)?;
    drop(open.pop());
    until_served(&scene, NEIGHBOUR)?;
    ensure!(open[0].get("/")?.starts_with(b"s"));
    until_alarms(
        &scene,
        &[
            "a virtual service has as many connections as it may have",
            "sources have as many connections of a virtual service as they may have",
        ],
    )
}

const COUNT: usize = 30;
const BURST: usize = 3;

/// So many connections from these addresses begin at once: no more of them are let in by this limit, of two a second, than a bucket of [`BURST`] has
/// given by then, and no fewer than it had. Returns how many were refused.
fn begin_at_once(scene: &Scene, from: [Ipv4Addr; 2], limit: &str) -> Result<f64> {
    let began = Instant::now();
    let open = scene.lab.client().enter(|| {
        std::thread::scope(|scope| {
            let connect = |from| move || client::connect_from(from, SERVICE, MOMENT).is_ok();
            let all: Vec<_> = (0..COUNT).map(|n| scope.spawn(connect(from[n % 2]))).collect();
            all.into_iter()
                .map(|one| one.join().is_ok_and(|is_open| is_open))
                .filter(|is_open| *is_open)
                .count()
        })
    })?;
    let at_most = BURST + (2.0 * began.elapsed().as_secs_f64()).ceil() as usize + 1;
    let refused = refused(scene, limit)?;
    let let_in = COUNT as f64 - refused;
    ensure!((BURST as f64..=at_most as f64).contains(&let_in), "{let_in} let in, of {at_most} at most");
    ensure!(open as f64 <= let_in, "{open} open, {let_in} let in");
    Ok(refused)
}

#[test]
fn connections_begin_no_faster_than_they_may_and_whoever_tries_again_is_let_in() -> Result<()> {
    let scene = scene()?;
    limit(&scene, "--conn-rate 2:3")?;
    begin_at_once(&scene, [CLIENT, STRANGER], "conn_rate")?;
    until_served(&scene, CLIENT)?;

    limit(&scene, "--source-conn-rate 2:3 --source-prefix 26")?;
    let before = begin_at_once(&scene, [CLIENT, NEIGHBOUR], "source_conn_rate")?;
    is_served(&scene, STRANGER)?;
    assert_eq!(refused(&scene, "source_conn_rate")?, before, "another source has its own");
    until_served(&scene, NEIGHBOUR)?;
    until_alarms(
        &scene,
        &[
            "new connections of a virtual service come faster than they may",
            "sources open connections of a virtual service faster than they may",
        ],
    )
}
