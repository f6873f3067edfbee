//! Debian's own Keystone and Glance on loopback, started by the first test that needs them.
//!
//! Their databases come from `tests/servers/openstack/fixture`, which makes them once. A server
//! lives in a thread that waits for it, and dies with this process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kiln::openstack::Choice;
use kiln::publish::{ConnectError, Glance, Images as _, PATIENCE};
use kiln::remote::{Environment, Patience};
use rustix::process::{Pid, Signal, kill_process};

use super::servers::{ask, directory, free_port, log_of, repository, servers, tool};

/// How long a server may take until it answers, on a busy host.
const START: Duration = Duration::from_mins(3);

/// A Keystone and a Glance.
pub(crate) static CLOUD: LazyLock<Cloud> = LazyLock::new(|| Cloud::start("cloud", true));
/// A Glance that believes everybody.
pub(crate) static NOBODY: LazyLock<Cloud> = LazyLock::new(|| Cloud::start("nobody", false));

/// Servers of one cloud.
pub(crate) struct Cloud {
    directory: PathBuf,
    keystone: Option<u16>,
    glance: u16,
}

/// A server that can be killed.
pub(crate) struct Running {
    pid: Pid,
}

impl Running {
    /// Kills it, and waits until nobody answers.
    pub(crate) fn kill(self, port: u16) {
        kill_process(self.pid, Signal::KILL).unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_ok() {
            assert!(begun.elapsed() < START, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Cloud {
    fn start(name: &str, with_keystone: bool) -> Self {
        let cloud = Self::prepare(name, with_keystone);
        if let Some(port) = cloud.keystone {
            let mut command = Command::new(repository("tests/servers/openstack/keystone"));
            command.arg(&cloud.directory).arg(port.to_string());
            start(&command, &cloud.directory.join("keystone.out"), port, "/v3");
        }
        cloud.start_glance();
        // What is asked first takes long, as most of both servers is loaded then.
        cloud.images().list("nothing").unwrap();
        cloud
    }

    /// A cloud whose servers do not run yet.
    pub(crate) fn prepare(name: &str, with_keystone: bool) -> Self {
        for program in ["keystone-manage", "glance-api", "uwsgi", "sqlite3"] {
            tool(program);
        }
        let directory = directory(name);
        let fixture = Command::new(repository("tests/servers/openstack/fixture"))
            .arg(servers().join("openstack"))
            .output()
            .unwrap();
        assert!(fixture.status.success(), "{}", String::from_utf8_lossy(&fixture.stderr));
        let fixture = String::from_utf8(fixture.stdout).unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", fixture.trim()))
            .arg(&directory)
            .status();
        assert!(copied.unwrap().success(), "the fixture is copied");
        let (keystone, glance) = (free_port(), free_port());
        let mut configure = Command::new(repository("tests/servers/openstack/configure"));
        configure.arg(&directory).args([keystone.to_string(), glance.to_string()]);
        configure.args((!with_keystone).then_some("noauth"));
        assert!(configure.status().unwrap().success(), "the servers are configured");
        Self { directory, keystone: with_keystone.then_some(keystone), glance }
    }

    /// Starts the image service.
    pub(crate) fn start_glance(&self) -> Running {
        let mut command = Command::new(repository("tests/servers/openstack/glance"));
        command.arg(&self.directory);
        start(&command, &self.directory.join("glance.out"), self.glance, "/versions")
    }

    /// The port of the image service.
    pub(crate) fn glance_port(&self) -> u16 {
        self.glance
    }

    /// Where the image service keeps its images.
    pub(crate) fn images_directory(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// The address of Keystone.
    pub(crate) fn auth_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.keystone.expect("a cloud with Keystone"))
    }

    /// A member of the application credential that the fixture made.
    pub(crate) fn credential(&self, member: &str) -> String {
        let text = fs::read_to_string(self.directory.join("credential.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value[member].as_str().unwrap().to_owned()
    }

    /// Ends all tokens of ann's that are older than a second.
    pub(crate) fn end_tokens(&self) {
        let user = self.credential("user");
        // By its own time, in which Keystone writes whole seconds.
        let event = format!(
            "INSERT INTO revocation_event (user_id, issued_before, revoked_at) VALUES \
             ('{user}', datetime('now', '-1 second'), datetime('now'))"
        );
        let mut sqlite = Command::new(tool("sqlite3"));
        sqlite.arg(self.directory.join("keystone.sqlite")).arg(".timeout 10000").arg(event);
        assert!(sqlite.status().unwrap().success(), "the tokens are ended");
    }

    /// The bytes of an image, as a client that is not kiln's gets them.
    pub(crate) fn download(&self, id: &str) -> Vec<u8> {
        let path = format!("/v2/images/{id}/file");
        let headers = match self.keystone {
            Some(port) => {
                let auth = serde_json::json!({ "auth": {
                    "identity": { "methods": ["password"], "password": { "user": {
                        "name": "ann", "password": "ann", "domain": { "id": "default" },
                    } } },
                    "scope": { "project": { "name": "images", "domain": { "id": "default" } } },
                } });
                let head = "Content-Type: application/json\r\n";
                let request = (head, auth.to_string());
                let (head, _) = exchange(port, "POST /v3/auth/tokens", &request);
                let token = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("x-subject-token").then(|| value.trim().to_owned())
                });
                format!("X-Auth-Token: {}\r\n", token.expect("a login gives a token"))
            }
            None => String::new(),
        };
        let request = (headers.as_str(), String::new());
        exchange(self.glance, &format!("GET {path}"), &request).1
    }

    /// The variables by which one logs in.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        if self.keystone.is_none() {
            let endpoint = format!("http://127.0.0.1:{}", self.glance);
            return vec![("OS_AUTH_TYPE", "none".into()), ("OS_ENDPOINT", endpoint)];
        }
        vec![
            ("OS_AUTH_URL", self.auth_url()),
            ("OS_USERNAME", "ann".into()),
            ("OS_PASSWORD", "ann".into()),
            ("OS_PROJECT_NAME", "images".into()),
        ]
    }

    /// Its images, for who logs in by password.
    pub(crate) fn images(&self) -> Glance {
        let variables = self.variables();
        let pairs: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        images_of(&pairs).unwrap_or_else(|error| panic!("{error:?}"))
    }
}

/// The images of the cloud that these variables mean.
pub(crate) fn images_of(pairs: &[(&str, &str)]) -> Result<Glance, ConnectError> {
    Glance::cloud(&Environment::of(pairs), &Choice::default())?.connect(patience())
}

/// As long as a busy host of tests may need.
pub(crate) fn patience() -> Patience {
    Patience { idle: Duration::from_mins(1), call: Duration::from_mins(3), ..PATIENCE }
}

/// Sends a request with headers and a body, and gives the head and the body of a good answer.
fn exchange(port: u16, line: &str, (headers, body): &(&str, String)) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let len = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: \
         {len}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap();
    assert!(head.starts_with("HTTP/1.1 20"), "{head}");
    (head, body)
}

/// Starts a server, and waits until it answers.
fn start(command: &Command, log: &Path, port: u16, path: &str) -> Running {
    let out = File::options().create(true).append(true).open(log).unwrap();
    // A server is told of the end of the thread that started it: hence a thread that stays.
    let mut bound = Command::new(tool("setpriv"));
    bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    bound.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let (tell, told) = channel();
    thread::spawn(move || {
        let mut child = bound.spawn().expect("setpriv runs");
        let _ = tell.send(child.id());
        let _ = child.wait();
        let _ = tell.send(0);
        loop {
            thread::park();
        }
    });
    let pid = told.recv().unwrap();
    let address = format!("127.0.0.1:{port}");
    let begun = Instant::now();
    loop {
        let ended = told.try_recv().is_ok() || begun.elapsed() > START;
        let said = log_of(log.parent().unwrap());
        assert!(!ended, "`{:?}` did not start: {said} {}", command, log.display());
        if TcpStream::connect(&address).is_ok() && ask(&address, "GET", path, &[]).0 < 400 {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            return Running { pid };
        }
        thread::sleep(Duration::from_millis(100));
    }
}
