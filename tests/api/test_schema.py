"""The OpenAPI page describes every path of the contract."""

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema


def test_the_schema_is_valid_and_whole(capsys):
    schema = SchemaGenerator().get_schema(request=None, public=True)
    validate_schema(schema)
    assert capsys.readouterr().err == ""
    assert {"/api/v1/adapters/", "/api/v1/retrieve/", "/api/v1/merges/", "/api/v1/methods/"} <= set(schema["paths"])
    assert schema["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


def test_the_browsable_page_loads_its_scripts_from_here(client):
    page = client.get("/api/v1/docs/")
    assert page.status_code == 200
    text = page.content.decode()
    assert "<script>" not in text
    assert "//cdn" not in text
