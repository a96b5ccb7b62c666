//! `/v1/conntrack`: connections listed, ended, changed, counted, and watched.

use std::ops::ControlFlow;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lb_core::conntrack::Zones;
use lb_core::path::{Deed, Order, Outcome};

use super::{
    ConntrackChange, ConntrackCount, ConntrackEvent, ConntrackNew, ConntrackStatistics, Ends, Expectation,
    ExpectationEvent, ExpectationFilter, ExpectationNew, Filter, Tracked,
};
use crate::api::events::Event;
use crate::api::lines;
use crate::api::server::{Api, Asked, bad_request, read_json, read_query};
use crate::api::types::{ErrorBody, ErrorKind};

/// Connections that fit, as netfilter's connection tracking shows them: one JSON object a line, as they are found.
#[utoipa::path(get, path = "/v1/conntrack", params(Filter), responses(
    (status = 200, content_type = "application/x-ndjson", body = Tracked),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many lists at a time", body = ErrorBody),
))]
pub(in crate::api) async fn conntrack(
    State(api): State<Api>,
    filter: Asked<Filter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    api.stream(move |plane, lines| {
        plane.list_flows(&filter.sought(), &mut |view| match Tracked::of(&view) {
            Some(tracked) => lines.add(&tracked),
            None => ControlFlow::Continue(()),
        })
    })
}

/// Begins a connection of no virtual service, without a packet, and says what it was told.
#[utoipa::path(post, path = "/v1/conntrack", request_body = ConntrackNew, responses(
    (status = 201, body = ConntrackNew),
    (status = 400, description = "no such connection can be asked for", body = ErrorBody),
    (status = 409, description = "there is one already, or one whose answers look so", body = ErrorBody),
    (status = 422, description = "no packets can have such ends, or they are a virtual service's", body = ErrorBody),
    (status = 503, description = "too many lists at a time, or a worker does not answer", body = ErrorBody),
    (status = 507, description = "there is no room, or no port to translate to", body = ErrorBody),
))]
pub(in crate::api) async fn begin_conntrack(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<ConntrackNew>), ErrorBody> {
    let new: ConntrackNew = read_json(request).await?;
    let (original, zones, beginning) = new.read().map_err(bad_request)?;
    let began = api.ask_workers(move |plane| plane.begin_flow(original, zones, &beginning)).await?;
    let Ends { src, dst, sport, dport } = new.original;
    let (kind, why) = match began {
        Outcome::Done => return Ok((StatusCode::CREATED, Json(new))),
        Outcome::Exists => (ErrorKind::ConnectionExists, "there is such a connection"),
        Outcome::Full => (ErrorKind::Full, "there is no room, or no free port to translate to"),
        Outcome::Served => (ErrorKind::InvalidOperation, "a virtual service takes such packets"),
        Outcome::Impossible => (ErrorKind::InvalidOperation, "no packets of a connection have such ends"),
        Outcome::Absent | Outcome::Elsewhere => {
            (ErrorKind::Unavailable, "the workers do not agree on whose it would be")
        }
    };
    let protocol = new.protocol;
    Err(ErrorBody::new(
        kind,
        format!("protocol {protocol} from {src} port {sport} to {dst} port {dport}: {why}"),
    ))
}

/// Ends the connections that fit, and lists them.
#[utoipa::path(delete, path = "/v1/conntrack", params(Filter), responses(
    (status = 200, content_type = "application/x-ndjson", body = Tracked),
    (status = 400, description = "no such filter; nothing was ended", body = ErrorBody),
    (status = 503, description = "too many lists at a time; nothing was ended", body = ErrorBody),
))]
pub(in crate::api) async fn end_conntrack(
    State(api): State<Api>,
    filter: Asked<Filter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    api.stream(move |plane, lines| {
        plane.order_flows(&filter.sought(), &mut |view| match Tracked::of(view) {
            Some(tracked) => {
                lines.add(&tracked)?;
                ControlFlow::Continue(Some(Order { zones: view.known.zones, deed: Deed::End }))
            }
            None => ControlFlow::Continue(None),
        })
    })
}

/// Changes the connections that fit, and lists those that are others now.
#[utoipa::path(patch, path = "/v1/conntrack", params(Filter), request_body = ConntrackChange, responses(
    (status = 200, content_type = "application/x-ndjson", body = Tracked),
    (status = 400, description = "no such filter, or no such change; nothing was changed", body = ErrorBody),
    (status = 503, description = "too many lists at a time; nothing was changed", body = ErrorBody),
))]
pub(in crate::api) async fn change_conntrack(
    State(api): State<Api>,
    filter: Asked<Filter>,
    request: Request,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    let change: ConntrackChange = read_json(request).await?;
    change.check().map_err(bad_request)?;
    api.stream(move |plane, lines| {
        plane.order_flows(&filter.sought(), &mut |view| {
            let Some(mut tracked) = Tracked::of(view) else { return ControlFlow::Continue(None) };
            if change.zero {
                lines.add(&tracked)?;
                return ControlFlow::Continue(Some(Order { zones: view.known.zones, deed: Deed::Zero }));
            }
            let Some(change) = change.of(view, &mut tracked) else { return ControlFlow::Continue(None) };
            lines.add(&tracked)?;
            ControlFlow::Continue(Some(Order { zones: view.known.zones, deed: Deed::Change(change) }))
        })
    })
}

/// Connections that are expected, of those that fit: one JSON object a line, as they are found.
#[utoipa::path(get, path = "/v1/conntrack/expectations", params(ExpectationFilter), responses(
    (status = 200, content_type = "application/x-ndjson", body = Expectation),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many lists at a time", body = ErrorBody),
))]
pub(in crate::api) async fn expectations(
    State(api): State<Api>,
    filter: Asked<ExpectationFilter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    api.stream(move |plane, lines| {
        plane.list_flows(&filter.sought(), &mut |view| match Expectation::of(&view) {
            Some(expectation) => lines.add(&expectation),
            None => ControlFlow::Continue(()),
        })
    })
}

/// Expects those that fit no more, and lists them.
#[utoipa::path(delete, path = "/v1/conntrack/expectations", params(ExpectationFilter), responses(
    (status = 200, content_type = "application/x-ndjson", body = Expectation),
    (status = 400, description = "no such filter; nothing was ended", body = ErrorBody),
    (status = 503, description = "too many lists at a time; nothing was ended", body = ErrorBody),
))]
pub(in crate::api) async fn end_expectations(
    State(api): State<Api>,
    filter: Asked<ExpectationFilter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    api.stream(move |plane, lines| {
        plane.order_flows(&filter.sought(), &mut |view| match Expectation::of(view) {
            Some(expectation) => {
                lines.add(&expectation)?;
                ControlFlow::Continue(Some(Order { zones: view.known.zones, deed: Deed::Forget }))
            }
            None => ControlFlow::Continue(None),
        })
    })
}

/// Has a connection's helper expect another one, and says what it was told.
#[utoipa::path(post, path = "/v1/conntrack/expectations", request_body = ExpectationNew, responses(
    (status = 201, body = ExpectationNew),
    (status = 400, description = "nothing that could be expected", body = ErrorBody),
    (status = 404, description = "there is no such connection", body = ErrorBody),
    (status = 409, description = "it is expected already", body = ErrorBody),
    (status = 422, description = "the connection has no helper, or no packets can have such ends", body = ErrorBody),
    (status = 503, description = "too many lists at a time, or a worker does not answer", body = ErrorBody),
    (status = 507, description = "there is no room", body = ErrorBody),
))]
pub(in crate::api) async fn add_expectation(
    State(api): State<Api>,
    request: Request,
) -> Result<(StatusCode, Json<ExpectationNew>), ErrorBody> {
    let new: ExpectationNew = read_json(request).await?;
    let (master, expected) = new.read().map_err(bad_request)?;
    let order = Order { zones: Zones::new(new.zone, None), deed: Deed::Announce(expected) };
    let announced = api.ask_workers(move |plane| plane.ask_flow(master, order)).await?;
    let (kind, why) = match announced {
        Outcome::Done => return Ok((StatusCode::CREATED, Json(new))),
        Outcome::Exists => {
            (ErrorKind::ConnectionExists, "it expects such a one already, or another one does")
        }
        Outcome::Full => (ErrorKind::Full, "there is no room for what is expected"),
        Outcome::Absent => (ErrorKind::NotFound, "there is no such connection"),
        Outcome::Impossible | Outcome::Served | Outcome::Elsewhere => (
            ErrorKind::InvalidOperation,
            "it has no helper, or no packets can have the ends that it should expect",
        ),
    };
    let (protocol, Ends { src, dst, sport, dport }) = (new.protocol, new.master);
    Err(ErrorBody::new(
        kind,
        format!("connection of protocol {protocol} from {src} port {sport} to {dst} port {dport}: {why}"),
    ))
}

/// Connections that come to be expected, of those that fit, and that are so no more, as it happens: one JSON object a line, without end. What there is no
/// room for is counted in `lb_conntrack_events_lost_total`.
#[utoipa::path(get, path = "/v1/conntrack/expectations/events", params(ExpectationFilter), responses(
    (status = 200, content_type = "application/x-ndjson", body = ExpectationEvent),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many read events already", body = ErrorBody),
))]
pub(in crate::api) async fn expectation_events(
    State(api): State<Api>,
    filter: Asked<ExpectationFilter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    events(api, move |event| matches!(event, Event::Expectation(event) if filter.matches(&event.expectation)))
        .await
}

/// How many connections fit.
#[utoipa::path(get, path = "/v1/conntrack/count", params(Filter), responses(
    (status = 200, body = ConntrackCount),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many lists at a time, or a worker does not answer", body = ErrorBody),
))]
pub(in crate::api) async fn count_conntrack(
    State(api): State<Api>,
    filter: Asked<Filter>,
) -> Result<Json<ConntrackCount>, ErrorBody> {
    let filter = read_query(filter)?;
    let counted = api.ask_workers(move |plane| {
        let mut count = 0;
        plane.list_flows(&filter.sought(), &mut |view| {
            count += u64::from(view.is_connection());
            ControlFlow::Continue(())
        })?;
        Ok(ConntrackCount { count })
    });
    Ok(Json(counted.await?))
}

/// Connections that begin, change and end, of those that fit, as they happen: one JSON object a line, without end. What there is no room for is
/// counted in `lb_conntrack_events_lost_total`.
#[utoipa::path(get, path = "/v1/conntrack/events", params(Filter), responses(
    (status = 200, content_type = "application/x-ndjson", body = ConntrackEvent),
    (status = 400, description = "no such filter", body = ErrorBody),
    (status = 503, description = "too many read events already", body = ErrorBody),
))]
pub(in crate::api) async fn conntrack_events(
    State(api): State<Api>,
    filter: Asked<Filter>,
) -> Result<Response, ErrorBody> {
    let filter = read_query(filter)?;
    events(api, move |event| matches!(event, Event::Connection(event) if filter.matches(&event.tracked)))
        .await
}

/// Those that fit, without end.
async fn events(api: Api, fits: impl Fn(&Event) -> bool + Send + 'static) -> Result<Response, ErrorBody> {
    let place = api.events.place()?;
    let events = api.control.ask(|control| control.flow_events()).await?;
    let (pieces, answer) = lines::answer();
    api.events.read(events, fits, pieces, place);
    Ok(answer)
}

/// What each worker counts, in the kernel's words.
#[utoipa::path(get, path = "/v1/conntrack/statistics", responses((status = 200, body = [ConntrackStatistics])))]
pub(in crate::api) async fn conntrack_statistics(
    State(api): State<Api>,
) -> Result<Json<Vec<ConntrackStatistics>>, ErrorBody> {
    Ok(Json(api.control.ask(|control| control.conntrack_statistics()).await?))
}
