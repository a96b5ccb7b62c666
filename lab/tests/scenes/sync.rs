//! Goal: a director that is told of connections goes on with them when the one that had them is gone.
//! Method: two `lbd` on one wan and one lan, the second one with two workers, and a link between them. Real clients have connections open through the first
//! one, which is killed; the second one gets its addresses, as a VRRP daemon would give them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::crowd::{CROWD_PORT, Crowd, Echo};
use lab::server::{ECHO_PORT, UdpEcho};
use lab::topology::{self, Lab, SYNC_LINK, VIP, VIP_V6};
use lab::{Director, LbdPlan, PATIENCE, Plan, client, wait};

/// The usual services and one for the crowd.
fn plan(sync: &str) -> LbdPlan {
    let servers: Vec<_> =
        (0..3).map(|n| (SocketAddr::new(topology::server(n).into(), CROWD_PORT), 1)).collect();
    let crowd = LbdPlan::service(SocketAddr::new(VIP.into(), CROWD_PORT), "tcp", "rr", &servers);
    let usual = LbdPlan::usual_services(3, "rr");
    // Each for clients of one family, by FullNAT to an IPv4 real server.
    let server = SocketAddr::new(topology::server(0).into(), CROWD_PORT);
    let full_nat: String = FULL_NAT
        .iter()
        .map(|service| {
            format!(
                "\n[[virtual_service]]\naddress = \"{service}\"\nscheduler = \"rr\"\n\
                 real_servers = [{{ address = \"{server}\", forward = \"fullnat\" }}]\n"
            )
        })
        .collect();
    let sync = format!("\n[sysctl]\nsync_refresh_period = 1\n[sync]\n{sync}\n");
    LbdPlan { services: sync + &usual + &crowd + &full_nat, flow_memory: Some("none"), ..LbdPlan::default() }
}

struct Scene {
    first: Director,
    second: Director,
    _echoes: Vec<Echo>,
    _udp: Vec<UdpEcho>,
    lab: Lab,
}

const CROWD: usize = 3000;
const LATER: usize = 20;
const CROWD_SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(VIP), CROWD_PORT);
const FULL_NAT: [SocketAddr; 2] =
    [SocketAddr::new(IpAddr::V4(VIP), 7778), SocketAddr::new(IpAddr::V6(VIP_V6), 7778)];

/// What clients have open.
struct Open {
    /// Begun before the second director was there.
    crowd: Crowd,
    flows: Vec<(UdpSocket, String)>,
    /// By FullNAT, and those begun when both were there.
    later: Vec<TcpStream>,
}

fn scene(first: &str, second: &str) -> Result<(Scene, Open)> {
    let lab = Lab::with(&Plan { standby: true, ..Plan::default() })?;
    let echoes = lab.servers().iter().map(|server| Echo::start(server, CROWD)).collect::<Result<_>>()?;
    let udp = UdpEcho::start_all(&lab)?;
    let first = Director::start(&lab, &plan(first))?;
    let flow = |number: usize| {
        let (vip, any) =
            if number.is_multiple_of(2) { (VIP.into(), "0.0.0.0:0") } else { (VIP_V6.into(), "[::]:0") };
        let socket = lab.client().enter(|| UdpSocket::bind(any))??;
        socket.connect(SocketAddr::new(vip, ECHO_PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let server = client::who_answers(&socket)?;
        Ok((socket, server))
    };
    let crowd = Crowd::open(lab.client(), SocketAddrV4::new(VIP, CROWD_PORT), CROWD)?;
    let flows = (0..10).map(flow).collect::<Result<Vec<_>>>()?;
    let by_full_nat = || (0..LATER).map(|n| connect(&lab, FULL_NAT[n % 2])).collect::<Result<Vec<_>>>();
    let mut later = by_full_nat()?;
    // Local ports that lead answers to one of its workers, whichever it is that has the client.
    let second = LbdPlan { workers: vec![0, 1], ..plan(second) };
    let second = Director::start_standby(&lab, &second)?;
    later.extend((0..LATER).map(|_| connect(&lab, CROWD_SERVICE)).collect::<Result<Vec<_>>>()?);
    later.extend(by_full_nat()?);
    Ok((Scene { first, second, _echoes: echoes, _udp: udp, lab }, Open { crowd, flows, later }))
}

impl Open {
    fn connections(&self) -> usize {
        self.crowd.len() + self.flows.len() + self.later.len()
    }

    /// Every connection goes on, at the real server that it had.
    fn all_answer(&mut self) -> Result<()> {
        let round = self.crowd.round(PATIENCE)?;
        let count = self.crowd.len();
        ensure!(round.answered == count, "{} of {count}: {:?}", round.answered, round.problems);
        self.later.iter_mut().try_for_each(talk)?;
        for (socket, server) in &self.flows {
            ensure!(client::who_answers(socket)? == *server, "a UDP flow went to another real server");
        }
        Ok(())
    }
}

/// A connection to the crowd's real servers that has answered.
fn connect(lab: &Lab, service: SocketAddr) -> Result<TcpStream> {
    let mut stream = lab.client().enter(|| TcpStream::connect_timeout(&service, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    talk(&mut stream)?;
    Ok(stream)
}

fn talk(stream: &mut TcpStream) -> Result<()> {
    let (said, mut heard) = (*b"the same", [0; 8]);
    stream.write_all(&said)?;
    stream.read_exact(&mut heard)?;
    ensure!(heard == said, "{heard:?}");
    Ok(())
}

/// By connections taken over: the entries of the table are more, where a worker points to another's connection by FullNAT.
fn until_told(director: &Director, connections: usize) -> Result<()> {
    wait::until("connections told of", PATIENCE, || {
        let metrics = director.metrics().ok()?;
        (metrics.sum("lb_sync_taken_over_total", &[]) >= connections as f64).then_some(())
    })
    .with_context(|| {
        format!(
            "it has\n{}\n{}",
            director.ipvsadm("-Lnc").unwrap_or_default().lines().count(),
            director.log()
        )
    })
}

/// Gives a director the addresses of the one that is gone, and has the neighbours learn it.
fn take_addresses(lab: &Lab) -> Result<()> {
    let standby = lab.standby().context("there is one")?;
    for (address, twin) in [
        (format!("{VIP}/32"), "wan"),
        (format!("{VIP_V6}/128"), "wan"),
        (format!("{}/24", topology::GATEWAY), "lan"),
        (format!("{}/64", topology::GATEWAY_V6), "lan"),
    ] {
        standby.ip(&format!("addr add {address} dev {twin} nodad"))?;
    }
    for host in lab.servers().iter().chain([lab.client()]) {
        host.ip("neigh flush dev eth0")?;
    }
    Ok(())
}

#[test]
fn connections_go_on_at_the_backup_when_the_master_is_killed() -> Result<()> {
    let (master, backup) = (format!("master = \"{SYNC_LINK}\""), format!("backup = \"{SYNC_LINK}\""));
    let (scene, mut open) = scene(&master, &backup)?;
    until_told(&scene.second, open.connections())?;
    let metrics = scene.second.metrics()?;
    ensure!(metrics.sum("lb_sync_refused_total", &[]) == 0.0, "{}", scene.second.log());
    ensure!(
        scene
            .second
            .ipvsadm("-L --daemon")?
            .starts_with(&format!("backup sync daemon (mcast={SYNC_LINK}, syncid=0,"))
    );
    scene.first.kill()?;
    take_addresses(&scene.lab)?;
    open.all_answer()?;
    // And it takes new ones.
    for service in FULL_NAT.into_iter().chain([CROWD_SERVICE]) {
        connect(&scene.lab, service)?;
    }
    Ok(())
}

/// Both are master and backup at once, with numbers of their own in a group of IPv6, as `ipvsadm` starts them; a third
/// director's number is not theirs.
#[test]
fn two_that_are_master_and_backup_at_once_tell_each_other() -> Result<()> {
    let (scene, mut open) = scene("", "")?;
    for director in [&scene.first, &scene.second] {
        ensure!(director.ipvsadm("-L --daemon")?.is_empty());
        for role in ["master", "backup"] {
            let options =
                format!("--mcast-interface {SYNC_LINK} --syncid 7 --mcast-group ff02::88 --mcast-port 9999");
            director.ipvsadm(&format!("--start-daemon {role} {options}"))?;
        }
        let daemons = director.ipvsadm("-L --daemon")?;
        ensure!(daemons.lines().count() == 2 && daemons.contains("group=ff02::88, port=9999"), "{daemons}");
    }
    until_told(&scene.second, open.connections())?;
    // Stopped and started with another number, it hears nothing more.
    scene.second.ipvsadm("--stop-daemon backup")?;
    scene.second.ipvsadm(&format!("--start-daemon backup --mcast-interface {SYNC_LINK} --syncid 8 --mcast-group ff02::88 --mcast-port 9999"))?;
    let refused = || {
        scene
            .second
            .metrics()
            .map(|metrics| metrics.sum("lb_sync_refused_total", &["reason=\"other_syncid\""]))
    };
    wait::until("messages of another number", PATIENCE, || {
        // What goes on is told of again.
        open.later.iter_mut().try_for_each(talk).ok()?;
        refused().is_ok_and(|count| count > 0.0).then_some(())
    })?;
    scene.first.kill()?;
    take_addresses(&scene.lab)?;
    open.all_answer()
}
