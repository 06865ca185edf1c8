//! Slices as an API server writes them, and the hosts that follow.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn service(port: Option<&str>) -> Service {
    Service {
        name: "gpus".into(),
        namespace: None,
        port: port.map(Into::into),
        number: 8765,
    }
}

fn endpoint(address: &str, pod: &str, conditions: Value) -> Value {
    let mut endpoint = json!({
        "addresses": [address],
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "name": pod, "namespace": "default", "uid": format!("uid of {pod}")},
    });
    endpoint["conditions"] = conditions;
    endpoint
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

fn leaving() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

fn ending() -> Value {
    json!({"ready": false, "serving": false, "terminating": true})
}

fn unready() -> Value {
    json!({"ready": false, "serving": false, "terminating": false})
}

fn http() -> Value {
    json!([{"name": "http", "port": 8765, "protocol": "TCP"}])
}

/// A slice of IPv4.
fn slice(name: &str, endpoints: Value, ports: Value) -> Value {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "name": name, "namespace": "default", "resourceVersion": "7",
            "labels": {"kubernetes.io/service-name": "gpus"},
        },
    });
    slice["endpoints"] = endpoints;
    slice["ports"] = ports;
    slice
}

fn v6(name: &str, endpoints: Value) -> Value {
    let mut slice = slice(name, endpoints, http());
    slice["addressType"] = json!("IPv6");
    slice
}

fn parsed(slice: &Value) -> EndpointSlice {
    serde_json::from_value(slice.clone()).unwrap()
}

/// Each place as text: where, which pod, and why it is withdrawn.
fn shown(places: &[Place]) -> Vec<String> {
    let shown = |place: &Place| {
        let pod = place.origin.pod().map_or("-", AsRef::as_ref);
        let withdrawn = place.origin.withdrawn();
        let withdrawn = withdrawn.map_or_else(String::new, |reason| format!(" {reason:?}"));
        format!("{} {pod}{withdrawn}", place.address)
    };
    places.iter().map(shown).collect()
}

/// What follows from a list of these.
fn listed(service: Service, slices: &[Value]) -> Endpoints {
    let mut known = Slices::new(service);
    assert_eq!(known.take_in(Event::Init), None);
    for slice in slices {
        assert_eq!(known.take_in(Event::InitApply(parsed(slice))), None);
    }
    known.take_in(Event::InitDone).unwrap()
}

fn found(slices: &[Value]) -> Vec<String> {
    let endpoints = listed(service(None), slices);
    assert_eq!(endpoints.problem, None);
    shown(&endpoints.places.unwrap())
}

#[test]
fn conditions_say_who_gets_requests() {
    let table = [
        (ready(), ""),
        (json!({}), ""),
        (Value::Null, ""),
        (json!({"ready": true}), ""),
        (unready(), " NotReady"),
        (json!({"ready": false}), " NotReady"),
        // Whatever it answers, it may not be ready for more than what it has.
        (json!({"ready": false, "serving": true}), " NotReady"),
        (leaving(), " Terminating"),
        (ending(), " Terminating"),
        (json!({"ready": false, "terminating": true}), " Terminating"),
        // A Service with publishNotReadyAddresses calls everything ready.
        (json!({"ready": true, "terminating": true}), " Terminating"),
    ];
    for (conditions, withdrawn) in table {
        let endpoints = json!([
            endpoint("10.0.0.1", "gpu-0", conditions.clone()),
            endpoint("10.0.0.2", "gpu-1", ready()),
        ]);
        let expected = [
            format!("10.0.0.1:8765 gpu-0{withdrawn}"),
            "10.0.0.2:8765 gpu-1".to_owned(),
        ];
        assert_eq!(
            found(&[slice("a", endpoints, http())]),
            expected,
            "{conditions}"
        );
    }
}

#[test]
fn while_none_is_ready_those_that_are_being_ended_serve_as_long_as_they_can() {
    let endpoints = json!([
        endpoint("10.0.0.1", "gpu-0", leaving()),
        endpoint("10.0.0.2", "gpu-1", ending()),
        endpoint("10.0.0.3", "gpu-2", unready()),
    ]);
    assert_eq!(
        found(&[slice("a", endpoints, http())]),
        [
            "10.0.0.1:8765 gpu-0",
            "10.0.0.2:8765 gpu-1 Terminating",
            "10.0.0.3:8765 gpu-2 NotReady"
        ]
    );
}

#[test]
fn an_endpoint_in_two_slices_is_one_host_and_as_good_as_the_better_says() {
    let one = |conditions| json!([endpoint("10.0.0.1", "gpu-0", conditions)]);
    for (first, second) in [(ready(), leaving()), (unready(), ready())] {
        let slices = [
            slice("a", one(first), http()),
            slice("b", one(second), http()),
        ];
        assert_eq!(found(&slices), ["10.0.0.1:8765 gpu-0"]);
    }
}

#[test]
fn a_pod_with_addresses_of_both_kinds_is_one_host() {
    let slices = [
        v6(
            "six",
            json!([
                endpoint("fd00::1", "gpu-0", ready()),
                endpoint("fd00::2", "gpu-1", ready()),
                {"addresses": ["fd00::3"]},
            ]),
        ),
        slice(
            "four",
            json!([endpoint("10.0.0.1", "gpu-0", ready()), {"addresses": ["10.0.0.3"]}]),
            http(),
        ),
    ];
    assert_eq!(
        found(&slices),
        [
            "10.0.0.1:8765 gpu-0",
            "10.0.0.3:8765 -",
            "[fd00::2]:8765 gpu-1",
            "[fd00::3]:8765 -"
        ]
    );
}

#[test]
fn what_is_no_address_of_a_host_is_left_out() {
    let endpoints = json!([
        {"addresses": []},
        {"addresses": ["0.0.0.0"]},
        {"addresses": ["224.0.0.1"]},
        {"addresses": ["gpu.example"]},
        {"addresses": ["10.0.0.9", "10.0.0.8"]},
        {"addresses": ["10.0.0.7"], "targetRef": {"kind": "Node", "name": "node-1"}},
        {"addresses": ["10.0.0.6"], "targetRef": {"kind": "Pod", "name": "gpu\n0"}},
    ]);
    assert_eq!(
        found(&[slice("a", endpoints, http())]),
        ["10.0.0.6:8765 -", "10.0.0.7:8765 -", "10.0.0.9:8765 -"]
    );
}

#[test]
fn ports_go_by_name_or_by_what_there_is() {
    let two = || json!([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9}]);
    let numbered = json!([{"name": "a", "port": 1}, {"name": "b", "port": 8765}]);
    let udp = || json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 8000}]);
    let table = [
        (None, http(), Ok(8765)),
        (None, json!([]), Ok(8765)),
        (None, Value::Null, Ok(8765)),
        (None, json!([{"port": 8000}]), Ok(8000)),
        (None, json!([{"name": "any"}]), Ok(8765)),
        (None, numbered, Ok(8765)),
        (None, udp(), Ok(8000)),
        (
            Some("dns"),
            udp(),
            Err("it has no port called dns, but one without a name; correct discover_port"),
        ),
        (Some("http"), two(), Ok(8080)),
        (Some("metrics"), two(), Ok(9)),
        (
            None,
            two(),
            Err(
                "it has several ports (http, metrics), and none is 8765; name one as discover_port",
            ),
        ),
        (
            Some("grpc"),
            two(),
            Err("it has no port called grpc, but http, metrics; correct discover_port"),
        ),
        (
            Some("http"),
            json!([{"port": 8000}]),
            Err("it has no port called http, but one without a name; correct discover_port"),
        ),
        (
            Some("http"),
            json!([]),
            Err("it has no port called http, nor any other; leave discover_port out"),
        ),
    ];
    for (wanted, ports, expected) in table {
        let endpoints = json!([endpoint("10.0.0.1", "gpu-0", ready())]);
        let told = listed(service(wanted), &[slice("a", endpoints, ports.clone())]);
        let (places, problem) = match expected {
            Ok(port) => (Some(vec![format!("10.0.0.1:{port} gpu-0")]), None),
            Err(problem) => (None, Some(problem.to_owned())),
        };
        let shown = told.places.as_deref().map(shown);
        assert_eq!(
            (shown, told.problem),
            (places, problem),
            "{wanted:?} {ports}"
        );
    }
}

#[test]
fn one_slice_that_cannot_be_used_is_told_and_the_others_count() {
    let endpoints = |address| json!([endpoint(address, "gpu-0", ready())]);
    let names = json!({"addresses": ["gpu.example"]});
    let mut by_name = slice("b", json!([names]), http());
    by_name["addressType"] = json!("FQDN");
    let told = listed(
        service(None),
        &[slice("a", endpoints("10.0.0.1"), http()), by_name],
    );
    assert_eq!(shown(&told.places.unwrap()), ["10.0.0.1:8765 gpu-0"]);
    assert_eq!(told.problem.as_deref(), Some(NO_ADDRESSES));
}

#[test]
fn no_slice_is_an_accident_and_no_endpoint_is_none() {
    assert_eq!(listed(service(None), &[]), Endpoints::unknown(NO_SLICE));
    // As the controller writes it for a Service whose pods are all gone: without ports.
    let empty = slice("a", Value::Null, Value::Null);
    for wanted in [None, Some("http")] {
        let told = listed(service(wanted), std::slice::from_ref(&empty));
        assert_eq!((told.places, told.problem), (Some(Vec::new()), None));
    }
}

#[test]
fn changes_count_at_once_and_a_new_list_when_it_is_whole() {
    let one = |name: &str, address: &str| {
        parsed(&slice(
            name,
            json!([endpoint(address, name, ready())]),
            http(),
        ))
    };
    let mut known = Slices::new(service(None));
    let mut after = |event| {
        let endpoints = known.take_in(event)?;
        Some(endpoints.places.as_deref().map(shown))
    };
    let places = |texts: &[&str]| {
        let owned = texts.iter().map(|text| (*text).to_owned());
        Some(Some(owned.collect::<Vec<_>>()))
    };
    let (a, b) = ("10.0.0.1:8765 a", "10.0.0.2:8765 b");
    assert_eq!(after(Event::Init), None);
    assert_eq!(after(Event::InitApply(one("a", "10.0.0.1"))), None);
    assert_eq!(after(Event::InitDone), places(&[a]));
    assert_eq!(after(Event::Apply(one("b", "10.0.0.2"))), places(&[a, b]));
    assert_eq!(after(Event::Delete(one("a", "10.0.0.1"))), places(&[b]));
    // A list that breaks off is forgotten with the next.
    assert_eq!(after(Event::Init), None);
    assert_eq!(after(Event::InitApply(one("c", "10.0.0.3"))), None);
    assert_eq!(after(Event::Init), None);
    assert_eq!(after(Event::InitApply(one("a", "10.0.0.1"))), None);
    assert_eq!(after(Event::InitDone), places(&[a]));
    assert_eq!(
        after(Event::Delete(one("a", "10.0.0.1"))),
        Some(None),
        "stays"
    );
}

#[test]
fn more_than_can_be_used_is_told() {
    let endpoints = |from: usize, to: usize| {
        let endpoint = |number: usize| {
            let address = format!("10.0.{}.{}", number / 256, number % 256);
            endpoint(&address, &format!("gpu-{number}"), ready())
        };
        Value::from((from..to).map(endpoint).collect::<Vec<_>>())
    };
    let half = MAX_ADDRESSES / 2;
    let told = listed(
        service(None),
        &[
            slice("a", endpoints(0, half), http()),
            slice("b", endpoints(half, MAX_ADDRESSES + 2), http()),
        ],
    );
    assert_eq!(told.places.unwrap().len(), MAX_ADDRESSES);
    let expected = "258 endpoints; the first 256 are used";
    assert_eq!(told.problem.as_deref(), Some(expected));

    let many = (0..=MAX_SLICES).map(|number| {
        let endpoints = endpoints(number, number + 1);
        slice(&format!("slice-{number:03}"), endpoints, http())
    });
    let told = listed(service(None), &many.collect::<Vec<_>>());
    assert_eq!(told.places.unwrap().len(), MAX_SLICES);
    assert_eq!(told.problem, Some(told_of_slices()));
}

#[test]
fn two_ports_at_one_address_are_told_and_one_is_used() {
    let one = |name: &str, port: u16, conditions: Value| {
        let endpoints = json!([endpoint("10.0.0.1", name, conditions)]);
        slice(name, endpoints, json!([{"name": "http", "port": port}]))
    };
    let told = listed(
        service(Some("http")),
        &[one("a", 1, unready()), one("b", 2, ready())],
    );
    assert_eq!(shown(&told.places.unwrap()), ["10.0.0.1:2 b"]);
    let expected = "several of its endpoints have the address 10.0.0.1; one of them is used";
    assert_eq!(told.problem.as_deref(), Some(expected));
}

/// Of a pod that may have none, one or several endpoints.
fn any_endpoint() -> impl Strategy<Value = (u8, Value)> {
    let conditions = prop::array::uniform3(prop::option::of(any::<bool>()));
    (0..4u8, 0..6u8, any::<bool>(), conditions).prop_map(|(slice, number, is_v6, conditions)| {
        let address = if is_v6 {
            format!("fd00::{number}")
        } else {
            format!("10.0.0.{number}")
        };
        let [ready, serving, terminating] = conditions;
        let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
        let pod = format!("gpu-{}", number / 2);
        // Slices are of one kind each.
        (
            slice * 2 + u8::from(is_v6),
            endpoint(&address, &pod, conditions),
        )
    })
}

proptest! {
    #[test]
    fn whatever_slices_say_and_in_whatever_order_hosts_are_distinct_and_one_serves_if_any_can(
        endpoints in prop::collection::vec(any_endpoint(), 0..12),
    ) {
        let slices = (0..8u8).map(|number| {
            let own = endpoints.iter().filter(|(slice, _)| *slice == number);
            let own: Vec<_> = own.map(|(_, endpoint)| endpoint.clone()).collect();
            let name = format!("slice-{number}");
            match number % 2 {
                0 => slice(&name, Value::from(own), http()),
                _ => v6(&name, Value::from(own)),
            }
        });
        let mut slices: Vec<_> = slices.collect();
        let told = listed(service(None), &slices);
        slices.reverse();
        prop_assert_eq!(&listed(service(None), &slices), &told);
        let places = told.places.unwrap();
        let addresses: HashSet<_> = places.iter().map(|place| place.address.ip()).collect();
        prop_assert_eq!(addresses.len(), places.len());
        let can_serve = |(_, endpoint): &(u8, Value)| {
            let conditions = serde_json::from_value(endpoint["conditions"].clone()).unwrap();
            Standing::of(Some(&conditions)) <= Standing::Leaving
        };
        let serves = places.iter().any(|place| place.origin.withdrawn().is_none());
        prop_assert!(serves || !endpoints.iter().any(can_serve));
    }
}
