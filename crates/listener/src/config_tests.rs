use super::*;

fn keys(config: &SourceConfig) -> Vec<String> {
    config
        .check()
        .into_iter()
        .map(|error| error.key.join("."))
        .collect()
}

#[test]
fn default_lacks_only_a_token() {
    assert_eq!(keys(&SourceConfig::default()), ["token"]);
    assert!(SourceConfig::new("ws://localhost:1/", "t").check().is_empty());
}

#[test]
fn any_scalar_parses_as_a_token() {
    for (written, token) in [
        (r#""abc""#, "abc"),
        ("7", "7"),
        ("-7", "-7"),
        ("1.5", "1.5"),
        ("true", "true"),
    ] {
        let config: SourceConfig = serde_json::from_str(&format!(r#"{{"token":{written}}}"#)).unwrap();
        assert_eq!(config.token.unwrap().expose(), token);
    }
    let error = serde_json::from_str::<SourceConfig>(r#"{"token":["x"]}"#).unwrap_err();
    assert!(error.to_string().contains("expected a text"), "{error}");
}

#[test]
fn all_keys_are_parsed_and_unknown_keys_rejected() {
    let config: SourceConfig = serde_json::from_str(
        r#"{"url":"ws://[::1]:8080/feed","token_file":"/run/t","open_timeout":"1s","auth_timeout":"2s",
            "ping_interval":"3s","pong_timeout":"4s","read_interval":"20ms","max_frame_size":"1 MiB","exit_on_refused_token":true,
            "tls":{"ca_file":"ca.pem","cert_file":"c.pem","key_file":"k.pem"},"proxy":"http://u:p@proxy:3128",
            "backoff":{"min":"100ms","max":"1m","stable_after":"10s"},
            "backfill":{"enabled":true,"url":"http://rest","hold":"1s","overlap":"5s","max_pages":5,"rate":2,"timeout":"3s"}}"#,
    )
    .unwrap();
    assert_eq!(config.check(), []);
    assert_eq!(config.backoff.max, Duration::from_secs(60));
    assert_eq!(config.max_frame_size, ByteSize::from_mib(1));
    for unknown in [
        r#"{"tokn":1}"#,
        r#"{"tls":{"ca":1}}"#,
        r#"{"backoff":{"maximum":1}}"#,
        r#"{"backfill":{"pages":1}}"#,
    ] {
        let error = serde_json::from_str::<SourceConfig>(unknown).unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
    }
}

#[test]
fn all_errors_are_reported() {
    let config = SourceConfig {
        url: Some("https://events.neuroio.com".into()),
        token: Some("s3cret".into()),
        token_file: Some("/run/t".into()),
        open_timeout: Duration::ZERO,
        read_interval: Duration::from_secs(2),
        max_frame_size: ByteSize::from_bytes(1),
        tls: TlsFiles {
            cert_file: Some("c.pem".into()),
            ..TlsFiles::default()
        },
        proxy: Some("socks5://u:hunter2@proxy".into()),
        backoff: BackoffConfig {
            max: Duration::from_millis(1),
            ..BackoffConfig::default()
        },
        ..SourceConfig::default()
    };
    let errors = config.check();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    url: found the scheme https://, expected "wss://events.neuroio.com"
    token: given together with `token_file`: expected one of them
    open_timeout: found "0s", expected "10ms" or more
    read_interval: found "2s", expected "0s", or "2ms" to "100ms"
    backoff.max: found "1ms", expected backoff.min ("250ms") to "1d"
    max_frame_size: found "1 B", expected "1 KiB" to "1 GiB"
    tls.key_file: missing: `tls.cert_file` needs its private key
    proxy: found the scheme socks5://, expected http://[user:password@]host[:port]
    "#);
    let shown = format!("{config:?} {errors:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn every_key_has_a_description_in_the_schema() {
    let schema = schemars::schema_for!(SourceConfig).to_value();
    let properties = schema["properties"].as_object().unwrap();
    assert_eq!(properties.len(), 19);
    for (key, property) in properties {
        assert!(property["description"].is_string(), "{key}");
    }
}

#[test]
fn several_connections_to_a_feed_without_event_ids_are_an_error() {
    let text = r#"{ "connections": 2, "feed": { "url": "ws://localhost", "rules": [{ "is": "event" }] } }"#;
    let config: SourceConfig = serde_json::from_str(text).unwrap();
    assert_eq!(keys(&config), ["connections"]);
}
