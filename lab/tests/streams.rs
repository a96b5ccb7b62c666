//! Goal: real servers are told who the client is, by PROXY protocol headers that nginx reads and by a TCP option seen on the wire, and
//! FTP works through a virtual service, active and passive.
//! Method: curl and wrk against nginx's `listen … proxy_protocol`, `kill -9` of the director under an open connection; a raw socket at
//! the real server; Debian's vsftpd on each real server, curl as its client; `ipvsadm` as an operator types it.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::client::{self, KeptOpen, Reuse};
use lab::process::Process;
use lab::raw::Raw;
use lab::server::{HTTP_PORT, PROXY_PORT};
use lab::topology::{self, CLIENT, CLIENT_V6, VIP, VIP_V6};
use lab::{Director, Driver, LbdPlan, Plan, Scene, wait};

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
    for version in ["v1", "v2"] {
        for (vip, client) in [(IpAddr::from(VIP), IpAddr::from(CLIENT)), (VIP_V6.into(), CLIENT_V6.into())] {
            let at = SocketAddr::new(vip, 80);
            scene.director.ipvsadm(&format!("-A -t {at} -s rr --proxy-protocol {version}"))?;
            for index in 0..3 {
                let server = match vip {
                    IpAddr::V4(_) => topology::server(index).into(),
                    IpAddr::V6(_) => IpAddr::from(topology::server_v6(index)),
                };
                let server = SocketAddr::new(server, PROXY_PORT);
                scene.director.ipvsadm(&format!("-a -t {at} -r {server} -m"))?;
            }
            let mut open = KeptOpen::connect(scene.lab.client(), at)?;
            let said = (client, open.local()?.port(), vip);
            for _ in 0..3 {
                assert_eq!(told(&open.get("/")?)?, said, "{version}");
            }
            let url = client::url(vip, 80, "/");
            let load = client::wrk(scene.lab.client(), &url, 20, 2, Reuse::OneRequest)?;
            ensure!(load.errors.is_empty(), "{version}: {}", load.errors);

            scene.director.kill()?;
            scene.director = Director::start(&scene.lab, &lbd())?;
            assert_eq!(told(&open.get("/")?)?, said, "{version}, after kill -9");
            let saved = scene.director.ipvsadm("-S -n")?;
            ensure!(saved.contains(&format!("--proxy-protocol {version}")), "{saved}");
            scene.director.ipvsadm(&format!("-D -t {at}"))?;
        }
    }
    Ok(())
}

#[test]
fn much_comes_whole_behind_a_header() -> Result<()> {
    let scene = scene()?;
    scene.director.ipvsadm(&format!("-A -t {VIP}:80 -s rr --proxy-protocol v1"))?;
    let server = topology::server(0);
    scene.director.ipvsadm(&format!("-a -t {VIP}:80 -r {server}:{PROXY_PORT} -m"))?;
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
    let mut with_option = 0;
    while let Some((from, segment)) = wire.receive(Duration::from_secs(1))? {
        if from == IpAddr::from(CLIENT) && segment.windows(8).any(|window| window == option) {
            with_option += 1;
        }
    }
    ensure!(with_option >= 1, "no segment had the option");
    assert_eq!(open.get("/")?, b"s1\n");
    Ok(())
}

const FILE: &str = "greeting";

/// vsftpd on each real server, with a file that says whose it is.
fn ftp_servers(scene: &Scene) -> Result<Vec<Process>> {
    let start = |namespace: &lab::Namespace| {
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
        let process =
            Process::spawn(namespace, scene.lab.dir(), &format!("vsftpd-{role}"), "vsftpd", &[config])?;
        let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 21));
        wait::until(&format!("vsftpd on {role}"), Duration::from_secs(10), || {
            matches!(namespace.enter(|| TcpStream::connect(address).is_ok()), Ok(true)).then_some(())
        })?;
        Ok(process)
    };
    scene.lab.servers().iter().map(start).collect()
}

#[test]
fn ftp_works_active_and_passive_by_both_families() -> Result<()> {
    let scene = scene()?;
    let _servers = ftp_servers(&scene)?;
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
        let url = format!("ftp://{at}/{FILE}");
        let own = own.to_string();
        let ways: &[&[&str]] = match vip {
            // PASV, EPSV, PORT, EPRT. `--ftp-skip-pasv-ip` is curl's default: what the director writes counts without it.
            IpAddr::V4(_) => &[
                &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
                &[],
                &["--ftp-port", &own, "--disable-eprt"],
                &["--ftp-port", &own],
            ],
            IpAddr::V6(_) => &[&[], &["--ftp-port", &own]],
        };
        for way in ways {
            let mut served = Vec::new();
            for _ in 0..4 {
                let mut arguments =
                    vec!["--silent", "--show-error", "--globoff", "--max-time", "15", "--url", &url];
                arguments.extend(*way);
                let text = scene
                    .lab
                    .client()
                    .run(20, "curl", &arguments)
                    .with_context(|| format!("{way:?} by {vip}"))?;
                ensure!(text.len() > 700_000, "{way:?}: {} bytes", text.len());
                served.push(text[..2].to_owned());
            }
            served.sort();
            served.dedup();
            ensure!(served.len() > 1, "{way:?}: all went to {served:?}");
        }
    }
    Ok(())
}
