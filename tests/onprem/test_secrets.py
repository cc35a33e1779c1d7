"""No key, no signature, no password ever stands in a log or in an answer to somebody else."""

import httpx

KEY, FILED, PASSWORD, FORM_SECRET = "key-of-settings-8431", "key-of-file-5127", "password-9964", "form-secret-" + "7" * 40


def test_nothing_secret_is_ever_logged(start, jpeg, tmp_path) -> None:
    file = tmp_path / "keys"
    file.write_text(FILED)
    server = start(SHUTTERLESS_API_KEYS=KEY, SHUTTERLESS_API_KEYS_FILE=file, SHUTTERLESS_FORM_SECRET=FORM_SECRET)
    url, said, secrets = server.url(), [], {KEY, FILED, PASSWORD, FORM_SECRET}
    objects = tmp_path / "var" / "objects" / "uploads"
    objects.mkdir(parents=True, exist_ok=True)
    (objects / "classify").write_text("in the way of a folder, so that nothing can be stored")
    with httpx.Client(base_url=url, timeout=60) as client:
        for key in (KEY, FILED, "wrong-key-1234"):
            secrets.add(key)
            headers = {"x-api-key": key}
            form = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": len(jpeg())}, headers=headers).json()
            if "fields" in form:
                secrets.add(form["fields"]["signature"])
                changed = form["fields"] | {"key": "uploads/classify/other.jpg"}
                said.append(httpx.post(form["url"], data=changed, files={"file": jpeg()}).text)
                said.append(httpx.post(form["url"], data=form["fields"], files={"file": jpeg()}).text)
            said += [client.request(method, path, headers=headers, params={"api_key": key}, content=content).text
                     for method, path, content in (("POST", "/predict", b"no"), ("POST", "/upload", jpeg()),
                                                   ("GET", "/nope", None), ("GET", "/results", None),
                                                   ("POST", "/upload_batch", b"x"))]
        file.write_text("two words")
        client.get("/models", headers={"x-api-key": FILED})
    log = "".join(server.stop())
    assert "refused" in log  # it does say what an operator has to know
    for secret in secrets:
        assert secret not in log
        assert not any(secret in text for text in said)


def test_a_database_s_password_is_not_logged(start) -> None:
    server = start(DATABASE_URL=f"postgresql://user:{PASSWORD}@127.0.0.1:1/nothing")
    url = server.url()
    assert httpx.get(f"{url}/results", timeout=60).status_code == 503
    log = "".join(server.stop())
    assert "does not open" in log
    assert PASSWORD not in log
