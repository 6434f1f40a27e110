"""What a public merge tells of private parents."""

from tests.api.conftest import run_jobs


def test_a_public_merge_names_nothing_private(ada, anyone, adapter_files):
    ada.ready("ada/open", adapter_files(seed=1))
    secret = ada.ready("ada/secret-sauce", adapter_files(seed=2), visibility="private")
    for name, visibility in (("ada/public-soup", "public"), ("ada/private-soup", "private")):
        inputs = [{"adapter": "ada/open", "weight": 0.5}, {"adapter": "ada/secret-sauce", "weight": 0.5}]
        recipe = {"method": "weighted_sum", "inputs": inputs, "output": {"name": name, "visibility": visibility}}
        assert ada.post("/merges/", recipe).status_code == 202
    inner = {"method": "ties", "inputs": [{"adapter": "ada/secret-sauce"}]}
    nested = {"method": "weighted_sum", "inputs": [{"adapter": "ada/open"}, {"recipe": inner}]}
    ada.post("/merges/", nested | {"output": {"name": "ada/public-tree", "visibility": "public"}})
    run_jobs()

    public = anyone.get("/adapters/ada/public-soup/")
    card = b"".join(anyone.get("/adapters/ada/public-soup/files/README.md").streaming_content).decode()
    tree = anyone.get("/adapters/ada/public-tree/").content.decode()
    tree += b"".join(anyone.get("/adapters/ada/public-tree/files/README.md").streaming_content).decode()
    for text in (public.content.decode(), card, tree):
        assert "ada/open" in text
        assert "secret" not in text
        assert secret["revision"] not in text
    assert "a private expert" in card
    own = b"".join(ada.get("/adapters/ada/private-soup/files/README.md").streaming_content).decode()
    assert "ada/secret-sauce" in own
