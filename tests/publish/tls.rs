//! TLS with a certificate that no authority of the host knows: `cacert` and `verify` of
//! `clouds.yaml`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln::openstack::Choice;
use kiln::publish::{Glance, Images};
use kiln::remote::Environment;

use super::openstack::patience;
use super::servers::{free_port, tool};

/// An image service over TLS that has no images.
const SERVER: &str = "
import http.server, ssl, sys

class Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{\"images\": []}')

server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Images)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print('up', flush=True)
server.serve_forever()
";

fn certificate(directory: &Path) {
    let made = Command::new(tool("openssl"))
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", "key.pem", "-out", "authority.pem"])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success(), "a certificate is made");
}

#[test]
fn a_cloud_with_an_authority_of_its_own_is_trusted_as_the_user_says() {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    let port = free_port();
    let mut server = Command::new(tool("python3"))
        .args(["-c", SERVER, &port.to_string(), "authority.pem", "key.pem"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut up).unwrap();
    let file = directory.path().join("clouds.yaml");
    let list = |trust: &str| {
        let cloud = format!(
            "clouds: {{c: {{auth_type: none, auth: {{endpoint: 'https://127.0.0.1:{port}'}}{trust}}}}}"
        );
        fs::write(&file, cloud).unwrap();
        let environment = Environment::of(&[("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap())]);
        let opening = Glance::cloud(&environment, &Choice::default()).unwrap();
        opening.connect(patience()).unwrap().list("golden")
    };
    let results = [list(""), list(", cacert: authority.pem"), list(", verify: false")];
    server.kill().unwrap();
    server.wait().unwrap();
    let [unknown, trusted, blind] = results;
    assert!(unknown.is_err(), "nobody knows it");
    assert_eq!(trusted.unwrap(), []);
    assert_eq!(blind.unwrap(), []);
}
