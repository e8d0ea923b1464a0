//! Programs that are killed, told to end, or find their state broken.

use std::io::{BufReader, Read, Write};
use std::sync::mpsc;

use mesh_e2e::app::App;
use mesh_e2e::{Mesh, eventually, http, runs, signal};

#[test]
fn traffic_goes_on_without_the_control_api_and_a_sidecar_comes_back_from_its_state() {
    let mesh = Mesh::start(&[]);
    let (control, _) = mesh.control_api();
    let state = mesh.directory().join("sidecar-web/resources.state");
    eventually("a state is kept", || state.is_file());
    signal("KILL", control);
    eventually("the control API is gone", || !runs(control));
    assert_eq!(mesh.call_orders().status, 200);

    let (mut again, told) = mesh.kill_and_start("web");
    let outbound = told["outbound"].as_str().expect("an address");
    let answer = http::get(outbound.parse().expect("host:port"), "orders", "/", "");
    assert_eq!(answer.status, 200, "{}", answer.head);
    signal("TERM", u64::from(again.id()));
    assert_eq!(again.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_corrupt_state_file_is_named_and_set_aside() {
    let mesh = Mesh::start(&[]);
    let (control, _) = mesh.control_api();
    let web = mesh.sidecar("web");
    let state = mesh.directory().join("sidecar-web/resources.state");
    eventually("a state is kept", || state.is_file());
    for pid in [control, web] {
        signal("KILL", pid);
        eventually("it is gone", || !runs(pid));
    }
    let mut bytes = std::fs::read(&state).expect("a state");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&state, bytes).expect("written");

    let mut again = mesh.command("sidecar-web").spawn().expect("it starts");
    let mut log = BufReader::new(again.stderr.take().expect("piped"));
    let mut said = String::new();
    eventually("the log names the file", || {
        let read = std::io::BufRead::read_line(&mut log, &mut said).expect("text");
        assert!(read > 0, "it ended: {said}");
        said.contains("resources.state") && said.contains("checksum")
    });
    assert!(again.try_wait().expect("a status").is_none(), "it lives");
    signal("TERM", u64::from(again.id()));
    log.read_to_string(&mut said).expect("text");
    assert_eq!(again.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_request_in_flight_finishes_while_its_sidecar_drains() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let app = App::start(move |mut arrived| {
        gate.lock().expect("one request").recv().ok();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate";
        arrived.stream.get_mut().write_all(answer).ok();
    });
    let mesh = Mesh::with_orders(&app);
    let outbound = mesh.address("web", "outbound");
    let caller = std::thread::spawn(move || http::get(outbound, "orders", "/", ""));
    app.heads.recv().expect("it arrived");
    let web = mesh.sidecar("web");
    signal("TERM", web);
    let admin = mesh.address("web", "admin");
    eventually("it drains", || {
        !runs(web) || http::get(admin, "localhost", "/readyz", "").status == 503
    });
    release.send(()).expect("the application waits");
    let answer = caller.join().expect("no panic");
    assert_eq!((answer.status, &*answer.text()), (200, "late"));
    eventually("it ends", || !runs(web));
}
