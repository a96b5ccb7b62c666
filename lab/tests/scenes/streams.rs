//! Goal: real servers are told who the client is, by PROXY protocol headers that nginx reads and by a TCP option seen on the wire, and
//! FTP works through a virtual service, active and passive, into the other address family, also where rules let in nothing else; and through NAT by rules with its helper.
//! Method: curl and wrk against nginx's `listen … proxy_protocol`, `kill -9` of the director under an open connection; a raw socket at
//! the real server; Debian's vsftpd on each real server, curl as its client; `ipvsadm` and `iptables` as an operator types them.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lab::client::{self, KeptOpen, Reuse};
use lab::process::Process;
use lab::raw::Raw;
use lab::server::{HTTP_PORT, PROXY_PORTS};
use lab::topology::{self, CLIENT, CLIENT_V6, VIP, VIP_V6};
use lab::{Director, Driver, LbdPlan, PATIENCE, Plan, Scene, wait};

fn lbd() -> LbdPlan {
    LbdPlan { driver: Driver::AfPacket, workers: vec![0, 1], services: String::new(), ..LbdPlan::default() }
}

fn scene() -> Result<Scene> {
    Scene::up(&Plan { queues: 2, ..Plan::default() }, &lbd())
}

/// The client's address and port and the virtual address, as the server was told.
fn told(page: &[u8]) -> Result<(IpAddr, u16, IpAddr)> {
    let page = std::str::from_utf8(page)?;
    let [client, port, vip] = page.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("{page}");
    };
    Ok((client.parse()?, port.parse()?, vip.parse()?))
}

#[test]
fn nginx_is_told_the_client_by_both_versions_of_the_proxy_protocol_also_after_kill_9() -> Result<()> {
    let mut scene = scene()?;
    let mut services = Vec::new();
    for (port, version, its) in [(80, "v1", PROXY_PORTS[0]), (81, "v2", PROXY_PORTS[1])] {
        for (vip, client) in [(IpAddr::from(VIP), IpAddr::from(CLIENT)), (VIP_V6.into(), CLIENT_V6.into())] {
            let at = SocketAddr::new(vip, port);
            scene.director.ipvsadm(&format!("-A -t {at} -s rr --proxy-protocol {version}"))?;
            for index in 0..3 {
                let server = match vip {
                    IpAddr::V4(_) => topology::server(index).into(),
                    IpAddr::V6(_) => IpAddr::from(topology::server_v6(index)),
                };
                let server = SocketAddr::new(server, its);
                scene.director.ipvsadm(&format!("-a -t {at} -r {server} -m"))?;
            }
            let mut open = KeptOpen::connect(scene.lab.client(), at)?;
            let said = (client, open.local()?.port(), vip);
            for _ in 0..3 {
                assert_eq!(told(&open.get("/")?)?, said, "{version}");
            }
            services.push((at, version, open, said));
        }
    }
    let client = scene.lab.client();
    std::thread::scope(|scope| {
        let load = |at: SocketAddr| {
            let url = client::url(at.ip(), at.port(), "/");
            move || client::wrk(client, &url, 20, 1, Reuse::OneRequest)
        };
        let loads: Vec<_> = services.iter().map(|(at, ..)| (*at, scope.spawn(load(*at)))).collect();
        let loads: Vec<_> = loads.into_iter().map(|(at, load)| (at, load.join())).collect();
        loads.into_iter().try_for_each(|(at, load)| {
            let load = load.map_err(|_panic| anyhow!("the load on {at} panicked"))??;
            ensure!(load.errors.is_empty(), "{at}: {}", load.errors);
            Ok(())
        })
    })?;

    scene.director.kill()?;
    scene.director = Director::start(&scene.lab, &lbd())?;
    let saved = scene.director.ipvsadm("-S -n")?;
    for (at, version, open, said) in &mut services {
        assert_eq!(told(&open.get("/")?)?, *said, "{version}, after kill -9");
        ensure!(saved.contains(&format!("-A -t {at} -s rr --proxy-protocol {version}\n")), "{saved}");
    }
    Ok(())
}

#[test]
fn much_comes_whole_behind_a_header() -> Result<()> {
    let scene = scene()?;
    scene.director.ipvsadm(&format!("-A -t {VIP}:80 -s rr --proxy-protocol v1"))?;
    let server = SocketAddr::new(topology::server(0).into(), PROXY_PORTS[0]);
    scene.director.ipvsadm(&format!("-a -t {VIP}:80 -r {server} -m"))?;
    let big: Vec<u8> = (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(scene.lab.dir().join("files").join("big"), &big)?;
    let got = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?.get("/files/big")?;
    ensure!(got == big, "{} bytes, not those that were sent", got.len());
    Ok(())
}

#[test]
fn the_option_with_the_clients_address_reaches_the_real_server() -> Result<()> {
    let scene = scene()?;
    scene.director.ipvsadm(&format!("-A -t {VIP}:80 -s rr --toa"))?;
    let server = topology::server(0);
    scene.director.ipvsadm(&format!("-a -t {VIP}:80 -r {server}:{HTTP_PORT} -m"))?;
    let wire = Raw::open(&scene.lab.servers()[0], 6, server.into())?;
    let mut open = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
    assert_eq!(open.get("/")?, b"s1\n");
    let port = open.local()?.port();
    let option = [&[254, 8][..], &port.to_be_bytes(), &CLIENT.octets()].concat();
    loop {
        let (from, segment) = wire.receive(Duration::from_secs(1))?.context("no segment had the option")?;
        if from == IpAddr::from(CLIENT) && segment.windows(8).any(|window| window == option) {
            break;
        }
    }
    assert_eq!(open.get("/")?, b"s1\n");
    Ok(())
}

const FILE: &str = "greeting";

/// vsftpd, with a file that says whose it is.
fn ftp_server(scene: &Scene, namespace: &lab::Namespace) -> Result<Process> {
    let role = namespace.role();
    let root = scene.lab.dir().join(role).join("ftp");
    fs::create_dir_all(&root)?;
    fs::write(root.join(FILE), format!("{role} {}\n", "greets ".repeat(100_000)))?;
    let config = scene.lab.dir().join(role).join("vsftpd.conf");
    let text = format!(
        "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root={}\n\
         connect_from_port_20=YES\nseccomp_sandbox=NO\nisolate_network=NO\nsecure_chroot_dir={}\n",
        root.display(),
        root.display(),
    );
    fs::write(&config, text)?;
    let config = config.to_str().context("the lab's directory is not UTF-8")?;
    let process = Process::spawn(namespace, scene.lab.dir(), &format!("vsftpd-{role}"), "vsftpd", &[config])?;
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 21));
    wait::until(&format!("vsftpd on {role}"), PATIENCE, || {
        matches!(namespace.enter(|| TcpStream::connect(address).is_ok()), Ok(true)).then_some(())
    })?;
    Ok(process)
}

/// PASV, EPSV, PORT, EPRT, as curl is told. `--ftp-skip-pasv-ip` is its default: what the director writes counts without it.
fn ways(own: &str) -> Vec<Vec<&str>> {
    match own.contains(':') {
        false => vec![
            vec!["--disable-epsv", "--no-ftp-skip-pasv-ip"],
            vec![],
            vec!["--ftp-port", own, "--disable-eprt"],
            vec!["--ftp-port", own],
        ],
        true => vec![vec![], vec!["--ftp-port", own]],
    }
}

/// What is got from there: whose it is.
fn fetch(from: &lab::Namespace, at: SocketAddr, way: &[&str]) -> Result<String> {
    let url = format!("ftp://{at}/{FILE}");
    let mut arguments = vec!["--silent", "--show-error", "--globoff", "--max-time", "60", "--url", &url];
    arguments.extend(way);
    let text = from.run(70, "curl", &arguments).with_context(|| format!("{way:?} at {at}"))?;
    ensure!(text.len() > 700_000, "{way:?}: {} bytes", text.len());
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn ftp_works_active_and_passive_by_both_families_also_behind_a_white_list() -> Result<()> {
    let scene = scene()?;
    let servers = scene.lab.servers().iter().map(|server| ftp_server(&scene, server));
    let _servers = servers.collect::<Result<Vec<_>>>()?;
    for (vip, own) in [(IpAddr::from(VIP), IpAddr::from(CLIENT)), (VIP_V6.into(), CLIENT_V6.into())] {
        let at = SocketAddr::new(vip, 21);
        scene.director.ipvsadm(&format!("-A -t {at} -s rr"))?;
        for index in 0..3 {
            let server = match vip {
                IpAddr::V4(_) => topology::server(index).into(),
                IpAddr::V6(_) => IpAddr::from(topology::server_v6(index)),
            };
            scene.director.ipvsadm(&format!("-a -t {at} -r {} -m", SocketAddr::new(server, 21)))?;
        }
        for way in ways(&own.to_string()) {
            let mut served =
                (0..4).map(|_| fetch(scene.lab.client(), at, &way)).collect::<Result<Vec<_>>>()?;
            served.sort();
            served.dedup();
            ensure!(served.len() > 1, "{way:?}: all went to {served:?}");
        }
    }
    for iptables in ["iptables", "ip6tables"] {
        for chain in ["INPUT", "FORWARD", "OUTPUT"] {
            for rule in ["-m state --state ESTABLISHED,RELATED", "-p tcp --dport 21"] {
                scene.director.run_lbctl(&format!("{iptables} -A {chain} {rule} -j ACCEPT"))?;
            }
            scene.director.run_lbctl(&format!("{iptables} -P {chain} DROP"))?;
        }
    }
    for chain in ["INPUT", "OUTPUT"] {
        scene.director.run_lbctl(&format!("ip6tables -I {chain} -p ipv6-icmp -j ACCEPT"))?;
    }
    for (vip, own) in [(IpAddr::from(VIP), IpAddr::from(CLIENT)), (VIP_V6.into(), CLIENT_V6.into())] {
        for way in ways(&own.to_string()) {
            fetch(scene.lab.client(), SocketAddr::new(vip, 21), &way)?;
        }
    }
    Ok(())
}

#[test]
fn ftp_works_by_full_nat_and_between_the_families() -> Result<()> {
    let scene = scene()?;
    let _server = ftp_server(&scene, &scene.lab.servers()[0])?;
    let servers = [IpAddr::from(topology::server(0)), topology::server_v6(0).into()];
    for (vip, own) in [(IpAddr::from(VIP), IpAddr::from(CLIENT)), (VIP_V6.into(), CLIENT_V6.into())] {
        let at = SocketAddr::new(vip, 21);
        for server in servers {
            scene.director.ipvsadm(&format!("-A -t {at} -s rr"))?;
            scene.director.ipvsadm(&format!("-a -t {at} -r {} --fullnat", SocketAddr::new(server, 21)))?;
            for way in ways(&own.to_string()) {
                fetch(scene.lab.client(), at, &way).with_context(|| format!("to {server}"))?;
            }
            scene.director.ipvsadm(&format!("-D -t {at}"))?;
        }
    }
    Ok(())
}

#[test]
fn where_a_rule_gives_ftps_helper_nat_lets_data_connections_through_both_ways() -> Result<()> {
    let scene = scene()?;
    let [inside, neighbour, ..] = scene.lab.servers() else { anyhow::bail!("real servers are missing") };
    let _servers = [ftp_server(&scene, inside)?, ftp_server(&scene, scene.lab.client())?];
    for (iptables, to) in
        [("iptables", topology::server(0).to_string()), ("ip6tables", topology::server_v6(0).to_string())]
    {
        for rule in [
            "-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp",
            &format!("-t nat -A PREROUTING -i wan -p tcp --dport 21 -j DNAT --to-destination {to}"),
            "-t nat -A POSTROUTING -o wan -j MASQUERADE",
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-A FORWARD -p tcp --dport 21 -j ACCEPT",
            "-P FORWARD DROP",
        ] {
            scene.director.run_lbctl(&format!("{iptables} {rule}"))?;
        }
    }
    let client = scene.lab.client();
    let (server, server_v6) = (topology::server(1).to_string(), topology::server_v6(1).to_string());
    for (from, own, at, whose) in [
        (client, CLIENT.to_string(), IpAddr::from(topology::DIRECTOR), inside),
        (client, CLIENT_V6.to_string(), topology::DIRECTOR_V6.into(), inside),
        (neighbour, server, CLIENT.into(), client),
        (neighbour, server_v6, CLIENT_V6.into(), client),
    ] {
        for way in ways(&own) {
            let got = fetch(from, SocketAddr::new(at, 21), &way)?;
            assert_eq!(got, whose.role(), "{way:?} from {own}");
        }
    }
    Ok(())
}
