//! `/v1/connections`: connections as IPVS shows them, listed and counted.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use lb_core::path::{FlowView, Sought, SoughtEnd, SoughtShown, shown_states};
use lb_core::tables::Protocol;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::IntoParams;

use super::conntrack::{ConntrackCount, Net, mask};
use super::query::query;
use super::server::{Api, Asked, read_query};
use super::types::{Connection, ConnectionProtocol, ErrorBody, ServiceAddress};

/// Which connections are meant: those that all that is given fits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectionFilter {
    /// of this service: `tcp/192.0.2.1:80`, `tcp/192.0.2.0/24:80`, `fwmark/7`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub service: Option<ServiceAddress>,
    /// of this real server: `10.0.0.1:8080`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// in this state, in upper or lower case: `ESTABLISHED`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub state: Option<Shown>,
    /// `tcp`, `udp` or `sctp`; `ip`: persistence templates of firewall marks
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub protocol: Option<ConnectionProtocol>,
    /// of this client: an address, with `/24` or `/255.255.255.0` a network
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub client: Option<Net>,
    /// to this virtual address, or one of this network
    #[serde(rename = "virtual", skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub virtual_: Option<Net>,
}

/// A state that a connection can be in, by the kernel's word for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown(&'static str);

impl FromStr for Shown {
    type Err = String;

    fn from_str(text: &str) -> Result<Shown, String> {
        let all = shown_states();
        let found = all.iter().find(|name| name.eq_ignore_ascii_case(text));
        let unknown = || format!("{text:?} is no state of a connection, those are {}", all.join(", "));
        found.map(|&name| Shown(name)).ok_or_else(unknown)
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shown, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl ConnectionFilter {
    /// What of it the workers compare: all but the service, which the model knows.
    fn sought(&self) -> Sought {
        let net = |net: Option<Net>| SoughtEnd { net: net.map(|net| (net.address, net.mask)), port: None };
        let host = |address: IpAddr| mask(address, if address.is_ipv4() { 32 } else { 128 });
        let server = self.server.map(|server| SoughtEnd {
            net: host(server.ip()).map(|mask| (server.ip(), mask)),
            port: Some(server.port()),
        });
        let shown = SoughtShown {
            client: net(self.client),
            virtual_: net(self.virtual_),
            server: server.unwrap_or_default(),
            state: self.state.map(|state| state.0),
        };
        Sought { protocol: self.protocol.map(protocol), shown, ..Sought::default() }
    }

    /// As the query of an address: `?state=ESTABLISHED`; empty when all are meant.
    pub fn query(&self) -> String {
        query(self)
    }
}

/// Connections that fit, one JSON object a line, as they are found: none twice, but some may have come or gone meanwhile.
#[utoipa::path(get, path = "/v1/connections", params(ConnectionFilter), responses(
    (status = 200, content_type = "application/x-ndjson", body = Connection),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many lists at a time", body = ErrorBody),
))]
pub(super) async fn connections(
    State(api): State<Api>,
    filter: Asked<ConnectionFilter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    let services = api.control.ask(|control| control.model().services_by_server()).await?;
    api.stream(move |plane, lines| {
        plane.list_flows(&filter.sought(), &mut |view| {
            let service = services.get(&view.server_id).copied();
            match is_listed(&view, service, &filter) {
                true => lines.add(&connection(&view, service)),
                false => ControlFlow::Continue(()),
            }
        })
    })
}

/// How many connections fit.
#[utoipa::path(get, path = "/v1/connections/count", params(ConnectionFilter), responses(
    (status = 200, body = ConntrackCount),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many lists at a time, or a worker does not answer", body = ErrorBody),
))]
pub(super) async fn count_connections(
    State(api): State<Api>,
    filter: Asked<ConnectionFilter>,
) -> Result<Json<ConntrackCount>, ErrorBody> {
    let filter = read_query(filter)?;
    let services = api.control.ask(|control| control.model().services_by_server()).await?;
    let counted = api.ask_workers(move |plane| {
        let mut count = 0;
        plane.list_flows(&filter.sought(), &mut |view| {
            count += u64::from(is_listed(&view, services.get(&view.server_id).copied(), &filter));
            ControlFlow::Continue(())
        })?;
        Ok(ConntrackCount { count })
    });
    Ok(Json(counted.await?))
}

fn is_listed(view: &FlowView, service: Option<ServiceAddress>, filter: &ConnectionFilter) -> bool {
    !view.has_come() && filter.service.is_none_or(|wanted| service == Some(wanted))
}

fn protocol(of: ConnectionProtocol) -> Protocol {
    match of {
        ConnectionProtocol::Ip => Protocol::ANY,
        ConnectionProtocol::Udp => Protocol::UDP,
        ConnectionProtocol::Sctp => Protocol::SCTP,
        ConnectionProtocol::Tcp => Protocol::TCP,
    }
}

fn connection(view: &FlowView, service: Option<ServiceAddress>) -> Connection {
    Connection {
        protocol: match view.protocol {
            Protocol::ANY => ConnectionProtocol::Ip,
            Protocol::UDP => ConnectionProtocol::Udp,
            Protocol::SCTP => ConnectionProtocol::Sctp,
            _ => ConnectionProtocol::Tcp,
        },
        expires: view.expires_in.as_secs(),
        state: view.state.to_owned(),
        client: view.client.into(),
        virtual_: view.virtual_.into(),
        destination: view.server.into(),
        local: view.local.map(Into::into),
        call: view.call.map(|(digest, more)| match digest {
            IpAddr::V4(digest) => format!("{:08x}{more:04x}", u32::from(digest)),
            IpAddr::V6(digest) => format!("{:032x}{more:04x}", u128::from(digest)),
        }),
        service,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_what_it_writes_and_sought_by_the_workers() {
        let filter = ConnectionFilter {
            service: "tcp/[2001:db8::1]:80".parse().ok(),
            server: "10.0.0.1:8080".parse().ok(),
            state: "established".parse().ok(),
            protocol: Some(ConnectionProtocol::Udp),
            client: "192.0.2.0/24".parse().ok(),
            virtual_: "198.51.100.1".parse().ok(),
        };
        let text = filter.query();
        let read = axum::extract::Query::<ConnectionFilter>::try_from_uri(
            &format!("/v1/connections{text}").parse().expect("an address"),
        );
        assert_eq!(read.expect(&text).0, filter);
        let Sought { protocol, shown, .. } = filter.sought();
        assert_eq!((protocol, shown.state), (Some(Protocol::UDP), Some("ESTABLISHED")));
        assert_eq!(shown.server.port, Some(8080));
        assert_eq!(ConnectionFilter::default().sought(), Sought::default());
        assert_eq!(ConnectionFilter::default().query(), "");
    }

    #[test]
    fn a_state_that_there_is_not_is_refused_with_those_that_there_are() {
        let said = "FOO".parse::<Shown>().expect_err("no state");
        assert!(said.starts_with("\"FOO\" is no state of a connection, those are ASSURED, "), "{said}");
        for name in ["ESTABLISHED", "SYN_RECV", "UDP", "NONE", "TIME_WAIT"] {
            assert!(said.contains(name), "{name}: {said}");
        }
    }
}
