use lb_core::flow::Method;
use lb_core::ids::ServerId;
use lb_core::path::{Change, Known};
use lb_core::time::Timeout;

use super::*;

fn view(protocol: Protocol, state: &'static str, method: Method) -> FlowView {
    let at = |last, port| (IpAddr::from([10, 0, 0, last]), port);
    FlowView {
        is_template: false,
        is_tracked: false,
        known: Known::default(),
        protocol,
        client: at(1, 40_000),
        virtual_: at(100, 80),
        server: at(200, 8080),
        server_id: ServerId(0),
        method,
        local: None,
        call: None,
        state,
        expires_in: Timeout::from_secs(60),
    }
}

#[test]
fn a_masqueraded_connection_is_one_whose_destination_is_translated() {
    let tracked = Tracked::of(&view(Protocol::TCP, "ESTABLISHED", Method::Masq)).unwrap();
    assert_eq!(tracked.reply.src, IpAddr::from([10, 0, 0, 200]));
    assert_eq!((tracked.reply.sport, tracked.reply.dport), (8080, 40_000));
    assert_eq!(tracked.status, [StatusBit::SeenReply, StatusBit::Assured, StatusBit::DstNat]);
    let udp = Tracked::of(&view(Protocol::UDP, "UDP", Method::Masq)).unwrap();
    assert_eq!((udp.state, udp.status), (None, vec![StatusBit::DstNat]));
}

#[test]
fn answers_that_take_another_way_are_not_seen() {
    for method in [Method::Direct, Method::Tunnel] {
        let tracked = Tracked::of(&view(Protocol::TCP, "ESTABLISHED", method)).unwrap();
        assert_eq!(tracked.reply.src, tracked.original.dst);
        assert_eq!(tracked.status, [StatusBit::Unreplied]);
    }
}

#[test]
fn templates_are_no_connections() {
    let template = FlowView { is_template: true, ..view(Protocol::TCP, "NONE", Method::Masq) };
    assert_eq!(Tracked::of(&template), None);
}

#[test]
fn a_filter_is_what_its_query_says() {
    let filter = Filter {
        family: Some(Family::Ipv6),
        protocol: Some(6),
        src: Some("fd00::/16".parse().unwrap()),
        dst: Some("10.0.0.0/255.0.255.0".parse().unwrap()),
        sport: Some(5),
        state: Some("ESTABLISHED".to_owned()),
        status: Some("ASSURED,SEEN_REPLY".parse().unwrap()),
        mark: Some("7/0xff".parse().unwrap()),
        src_nat: Some(NatTo::Any),
        dst_nat: Some("192.0.2.1".parse().unwrap()),
        ..Filter::default()
    };
    let query = filter.query();
    let uri: axum::http::Uri = format!("/v1/conntrack{query}").parse().expect(&query);
    let axum::extract::Query(read) = axum::extract::Query::<Filter>::try_from_uri(&uri).expect(&query);
    assert_eq!(read, filter);
    assert_eq!(Filter::default().query(), "");
}

#[test]
fn values_that_are_none_are_named() {
    for text in ["10.0.0.1/33", "10.0.0.1/ffff::", "::1/129", "x", "", "10.0.0.1/"] {
        let error = text.parse::<Net>().expect_err(text);
        assert!(error.to_string().starts_with(&format!("{text}: not an address")), "{error}");
    }
    assert!("7/x".parse::<Masked>().is_err());
    assert!("ASSURED,NONE".parse::<Statuses>().is_err());
    assert!("all".parse::<NatTo>().is_err());
}

#[test]
fn each_part_of_a_filter_leaves_out_what_it_does_not_fit() {
    let view = view(Protocol::TCP, "ESTABLISHED", Method::Masq);
    let tracked = Tracked::of(&view).unwrap();
    let fits = |query: &str| {
        let uri: axum::http::Uri = format!("/?{query}").parse().unwrap();
        let axum::extract::Query(filter) = axum::extract::Query::<Filter>::try_from_uri(&uri).expect(query);
        assert_eq!(filter.sought().fits(&view), filter.matches(&tracked), "as workers compare it: {query}");
        filter.matches(&tracked)
    };
    let id = format!("id={}", tracked.id);
    for query in [
        "",
        "family=ipv4",
        "protocol=6",
        "src=10.0.0.1",
        "src=10.0.0.0/24",
        "dst=10.0.0.100",
        "reply_src=10.0.0.200",
        "reply_dst=10.0.0.1",
        "sport=40000",
        "dport=80",
        "reply_sport=8080",
        "reply_dport=40000",
        "state=ESTABLISHED",
        "status=ASSURED",
        "status=seen_reply,assured",
        "mark=0",
        "mark=16/0xf",
        "zone=0",
        "orig_zone=0",
        "reply_zone=0",
        "dst_nat=any",
        "any_nat=any",
        "dst_nat=10.0.0.200",
        &id,
    ] {
        assert!(fits(query), "{query}");
    }
    for query in [
        "family=ipv6",
        "protocol=17",
        "src=10.0.0.2",
        "src=fd00::/8",
        "dst=10.0.0.0/30",
        "reply_src=10.0.0.201",
        "reply_dst=10.0.0.2",
        "sport=4",
        "dport=8080",
        "reply_sport=80",
        "reply_dport=4",
        "state=CLOSE",
        "state=OPEN",
        "status=OFFLOAD",
        "status=UNREPLIED",
        "status=ASSURED,EXPECTED",
        "mark=1",
        "zone=1",
        "orig_zone=1",
        "reply_zone=1",
        "src_nat=any",
        "dst_nat=10.0.0.1",
        "any_nat=10.0.0.1",
        "id=1",
        "icmp_type=8",
        "icmp_id=0",
    ] {
        assert!(!fits(query), "{query}");
    }
}

#[test]
fn a_change_is_what_is_other_than_before_and_only_what_can_be_set() {
    let before = FlowView {
        is_tracked: true,
        known: Known { mark: 0x12, labels: Labels::of([5]), ..Known::default() },
        ..view(Protocol::UDP, "NONE", Method::Masq)
    };
    let change = |text: &str| {
        let mut tracked = Tracked::of(&before).unwrap();
        let change: ConntrackChange = serde_json::from_str(text).expect(text);
        change.check().map(|()| (change.of(&before, &mut tracked), tracked))
    };
    assert_eq!(change("{}").unwrap().0, None);
    assert_eq!(change(r#"{"mark": "0x12"}"#).unwrap().0, None);
    let (set, shown) = change(r#"{"mark": "0x20/0xf0"}"#).unwrap();
    assert_eq!((set.unwrap().mark, shown.mark), (Some(0x22), 0x22));
    let (set, shown) = change(r#"{"timeout": 7, "status": "SEEN_REPLY,ASSURED"}"#).unwrap();
    let mut status = Status::SEEN_REPLY;
    status.set(Status::ASSURED);
    let timeout = Some(Timeout::from_secs(7));
    assert_eq!(set.unwrap(), Change { timeout, status, ..Change::default() });
    assert_eq!(shown.expires, 7);
    assert!(shown.has(StatusBit::Assured) && !shown.has(StatusBit::Unreplied), "{:?}", shown.status);
    assert_eq!(change(r#"{"timeout": 2678401}"#), Err("timeout 2678401 is outside 0..=2678400".to_owned()));
    assert_eq!(change(r#"{"label_add": [5], "label_del": [7]}"#).unwrap().0, None);
    let (set, shown) = change(r#"{"label_del": [5, 6], "label_add": [6, 127]}"#).unwrap();
    assert_eq!(set.unwrap().labels, [Labels::of([5, 6]), Labels::of([6, 127])]);
    assert_eq!(shown.labels, [6, 127]);
    for text in [r#"{"label_add": [128]}"#, r#"{"label_del": [128]}"#] {
        assert_eq!(change(text), Err("label 128 is outside 0..=127".to_owned()));
    }
    assert!(change(r#"{"status": "EXPECTED"}"#).unwrap_err().starts_with("status EXPECTED cannot be set"));
}

#[test]
fn a_tracked_connection_is_shown_as_the_kernel_shows_its_own() {
    let known = Known { status: Status::SEEN_REPLY, mark: 5, ..Known::default() };
    let ping = FlowView {
        is_tracked: true,
        known,
        client: (IpAddr::from([10, 0, 0, 1]), 77),
        virtual_: (IpAddr::from([10, 0, 0, 2]), 8 << 8 | 3),
        server: (IpAddr::from([10, 0, 0, 2]), 8 << 8 | 3),
        local: Some((IpAddr::from([192, 0, 2, 1]), 78)),
        ..view(Protocol::ICMP, "NONE", Method::Masq)
    };
    let shown = Tracked::of(&ping).unwrap();
    assert_eq!((shown.state.as_deref(), shown.mark), (None, 5));
    assert_eq!(shown.status, [StatusBit::SeenReply]);
    assert_eq!(shown.icmp(Direction::Original), Some((8, 3, 77)));
    assert_eq!(shown.icmp(Direction::Reply), Some((0, 3, 78)));
    assert_eq!(shown.reply.dst, IpAddr::from([192, 0, 2, 1]));
    for (filter, fits) in [
        (Filter { icmp_type: Some(8), icmp_code: Some(3), icmp_id: Some(77), ..Filter::default() }, true),
        (Filter { icmp_type: Some(0), ..Filter::default() }, false),
        (Filter { src_nat: Some(NatTo::Any), ..Filter::default() }, true),
        (Filter { status: Some("UNREPLIED".parse().unwrap()), ..Filter::default() }, false),
    ] {
        assert_eq!((filter.sought().fits(&ping), filter.matches(&shown)), (fits, fits), "{filter:?}");
    }
}

#[test]
fn what_is_expected_is_no_connection_and_has_its_kind_and_flags() {
    let master = view(Protocol::TCP, "ESTABLISHED", Method::Masq).original();
    let known = Known {
        told_by: Some(master),
        helper: Some("sip"),
        class: 2,
        is_permanent: true,
        is_inactive: true,
        ..Known::default()
    };
    let at = (IpAddr::from([10, 0, 0, 100]), 5060);
    let call = FlowView {
        is_tracked: true,
        known,
        virtual_: at,
        server: at,
        ..view(Protocol::UDP, "NONE", Method::Masq)
    };
    assert_eq!(Tracked::of(&call), None);
    assert!(!Filter::default().sought().fits(&call));
    let shown = Expectation::of(&call).expect("one");
    assert_eq!((shown.class, shown.permanent, shown.inactive, shown.expected.dport), (2, true, true, 5060));
    for (filter, fits) in [
        (ExpectationFilter::default(), true),
        (ExpectationFilter { protocol: Some(17), dport: Some(5060), ..ExpectationFilter::default() }, true),
        (ExpectationFilter { dport: Some(5061), ..ExpectationFilter::default() }, false),
        (ExpectationFilter { family: Some(Family::Ipv6), ..ExpectationFilter::default() }, false),
    ] {
        assert_eq!((filter.sought().fits(&call), filter.matches(&shown)), (fits, fits), "{filter:?}");
    }
    assert!(!ExpectationFilter::default().sought().fits(&view(Protocol::TCP, "ESTABLISHED", Method::Masq)));
}

#[test]
fn a_server_of_a_virtual_service_is_expected_as_its_packets_come() {
    let view = view(Protocol::TCP, "LISTEN", Method::Masq);
    let active = FlowView {
        known: Known { told_by: Some(view.original()), helper: Some("ftp"), ..Known::default() },
        ..view
    };
    let shown = Expectation::of(&active).expect("one");
    assert_eq!((shown.expected.src, shown.expected.sport), (IpAddr::from([10, 0, 0, 200]), 8080));
    assert_eq!((shown.expected.dst, shown.expected.dport), (IpAddr::from([10, 0, 0, 1]), 40_000));
    let known = Known { status: Status::DYING, ..active.known };
    let came = FlowView { known, ..active };
    assert_eq!((Expectation::of(&came), Tracked::of(&came)), (None, None), "it has come");
}
