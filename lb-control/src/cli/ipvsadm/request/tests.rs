use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::names::Lookup;
use super::super::options::TABLE;
use super::*;

/// Nobody has a name.
struct Nobody;

impl Lookup for Nobody {
    fn address(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn host(&self, _: Ipv4Addr) -> Option<String> {
        None
    }

    fn port(&self, _: &str, _: Transport) -> Option<u16> {
        None
    }

    fn service(&self, _: u16, _: Transport) -> Option<String> {
        None
    }
}

fn read(line: &str) -> Result<Request, Stop> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    parse(&words, &Names::new(&Nobody))
}

#[test]
fn a_line_becomes_one_command() {
    let service = "tcp/192.0.2.1:80".parse().expect("valid");
    let server = "10.0.0.1:8080".parse().expect("valid");
    let spec = ServerSpec { weight: 5, upper_threshold: 100, lower_threshold: 50, ..ServerSpec::new(server) };
    assert_eq!(
        read("-at192.0.2.1:80 -r 10.0.0.1:8080 -mw5 --u-threshold=100 -y 50"),
        Ok(Request::Change(Command::AddServer { service, server: spec }))
    );
    assert_eq!(
        read("-E -t 192.0.2.1:80"),
        Ok(Request::Change(Command::EditService(ServiceSpec::new(service, "wlc"))))
    );
    let local = vec![Ipv4Addr::new(10, 0, 0, 2).into(), Ipv4Addr::new(10, 0, 0, 3).into()];
    assert_eq!(
        read("-A -t 192.0.2.1:80 --laddr 10.0.0.2,10.0.0.3"),
        Ok(Request::Change(Command::AddService(ServiceSpec {
            local_addresses: local,
            ..ServiceSpec::new(service, "wlc")
        })))
    );
    assert!(read("-A -t 192.0.2.1:80 --laddr 10.0.0.2,").is_err());
    let full_nat = ServerSpec { forward: ForwardMethod::FullNat, ..ServerSpec::new(server) };
    assert_eq!(
        read("-a -t 192.0.2.1:80 -r 10.0.0.1:8080 --fullnat"),
        Ok(Request::Change(Command::AddServer { service, server: full_nat }))
    );
    assert_eq!(read("-Z"), Ok(Request::Change(Command::Zero { service: None })));
}

#[test]
fn full_nat_and_tunnels_alone_lead_into_the_other_family() {
    for (service, server) in [("[2001:db8::1]:80", "10.0.0.1:8080"), ("192.0.2.1:80", "[fd00::1]:8080")] {
        let line = |forward: &str| read(&format!("-a -t {service} -r {server} {forward}"));
        let Ok(Request::Change(Command::AddServer { server: spec, .. })) = line("--fullnat") else {
            panic!("it is a right line")
        };
        assert_eq!((spec.server.to_string().as_str(), spec.forward), (server, ForwardMethod::FullNat));
        assert!(line("-i").is_ok());
        for forward in ["-m", "-g"] {
            let stop = line(forward).expect_err(forward);
            assert!(stop.message.contains("Different address family is allowed only"), "{}", stop.message);
        }
    }
}

#[test]
fn scheduler_flags_are_read_before_it_is_asked_what_the_command_takes() {
    for (line, says) in [
        ("-L -b fast", "invalid scheduler flag `fast'"),
        ("-D -t 192.0.2.1:80 -b mh-port -w 5", "incompatible scheduler flag `mh-port'"),
        ("-A -t 192.0.2.1:80 -b flag-2,sh-port", "incompatible scheduler flag `sh-port'"),
        ("-Z -b flag-1", "Illegal 'sched-flags' option with the 'zero' command"),
        ("-L 5 -b fast", "unexpected argument 5"),
    ] {
        assert_eq!(read(line).expect_err(line).message, says, "{line}");
    }
    let flags = |line: &str| match read(line) {
        Ok(Request::Change(Command::AddService(spec))) => spec.scheduler_flags,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(flags("-A -t 192.0.2.1:80 -s sh -b ,sh-port,"), ["sh-port"]);
    assert_eq!(flags("-A -t 192.0.2.1:80 -b ,"), [""; 0]);
}

#[test]
fn a_service_may_be_for_a_prefix() {
    for (line, service) in [
        ("-D -t 192.0.2.0/24:80", "tcp/192.0.2.0/24:80"),
        ("-D -u 192.0.2.0/24", "udp/192.0.2.0/24:0"),
        ("-D --sctp-service [2001:db8::/64]:80", "sctp/[2001:db8::/64]:80"),
        ("-D -t 2001:db8::/64", "tcp/[2001:db8::/64]:0"),
        ("-D -t 192.0.2.1/32:80", "tcp/192.0.2.1:80"),
    ] {
        let service = service.parse().expect("valid");
        assert_eq!(read(line), Ok(Request::Change(Command::DeleteService { service })), "{line}");
    }
    for (line, error) in [
        ("-D -t 192.0.2.1/24:80", "virtual service 192.0.2.1/24:80: has bits behind the prefix"),
        ("-D -t 192.0.2.0/33:80", "illegal virtual server address[:port] specified"),
        ("-D -t 192.0.2.0/24:x", "illegal virtual server address[:port] specified"),
        ("-a -t 192.0.2.1:80 -r 10.0.0.0/24:80", "illegal real server address[:port] specified"),
    ] {
        let stop = read(line).expect_err(line);
        assert!(stop.message.contains(error), "{line}: {}", stop.message);
    }
}

#[test]
fn each_option_of_a_line_is_passed_on() {
    let Ok(Request::Change(Command::AddService(spec))) =
        read("-A -u [2001:db8::1]:53 -s sh -b sh-port,flag-1 -p 60 -M 64 -o --pe sip")
    else {
        panic!("it is a right line")
    };
    assert_eq!(spec.persistence, Some(Persistence { timeout: 60, netmask: Some("64".to_owned()) }));
    assert_eq!(spec.scheduler_flags, ["sh-port", "flag-1"]);
    assert_eq!((spec.one_packet, spec.persistence_engine.as_deref()), (true, Some("sip")));
    let Ok(Request::Change(Command::AddServer { server, .. })) =
        read("-a -t 192.0.2.1:80 -r 10.0.0.1 -i --tun-type gue --tun-port 6080 --tun-csum")
    else {
        panic!("it is a right line")
    };
    let tunnel = Tunnel { encapsulation: "gue".into(), port: 6080, checksum: Some("checksum".into()) };
    assert_eq!((server.forward, server.tunnel), (ForwardMethod::Tunnel, Some(tunnel)));
}

#[test]
fn a_service_of_ftp_has_its_helper_unless_the_line_says_otherwise() {
    let helper = |line: &str| match read(line) {
        Ok(Request::Change(Command::AddService(spec))) => spec.helper,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(helper("-A -t 192.0.2.1:21").as_deref(), Some("ftp"));
    assert_eq!(helper("-A -t 192.0.2.1:21 --helper none"), None);
    assert_eq!(helper("-A -t 192.0.2.1:2121"), None);
    assert_eq!(helper("-A -t 192.0.2.1:2121 --helper ftp").as_deref(), Some("ftp"));
}

proptest! {
    #[test]
    fn no_line_is_too_odd(
        words in prop::collection::vec(
            prop_oneof![
                (0..TABLE.len()).prop_map(|index| format!("--{}", TABLE[index].long)),
                (0..TABLE.len()).prop_map(|index| format!("-{}", TABLE[index].short.unwrap_or('n'))),
                "[-=:.,0-9x\\[\\]a-zü]{0,8}",
                Just("192.0.2.1:80".to_owned()),
                Just("[2001:db8::1]:80".to_owned()),
            ],
            0..8,
        ),
    ) {
        if let Err(stop) = parse(&words, &Names::new(&Nobody)) {
            prop_assert!(stop.code == 2 || stop.code == 255);
            prop_assert!(!stop.message.is_empty());
        }
    }
}
