"""`/base-models/`: what adapters can bind to."""

from drf_spectacular.utils import extend_schema
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from registry.api.pagination import paginated
from registry.api.schema import ERROR, OBJECT
from registry.base_models import register_base_model
from registry.describe import base_model_json
from registry.errors import Invalid, NotFound
from registry.models import BaseModel
from registry.queries import find_base_model

FIELDS = {"id", "revision", "modules", "aliases"}


class BaseModelList(APIView):
    def get_permissions(self) -> list:
        return [IsAdminUser()] if self.request.method == "POST" else super().get_permissions()

    @extend_schema(operation_id="base_models_list", responses=OBJECT)
    def get(self, request: Request) -> Response:
        return paginated(request, BaseModel.objects.all(), base_model_json)

    @extend_schema(request=OBJECT, responses={201: OBJECT, 400: ERROR})
    def post(self, request: Request) -> Response:
        """Register a base model `{id, modules: {path: [d_out, d_in]}, revision?, aliases?}`. Staff only."""
        fields = set(request.data) if isinstance(request.data, dict) else set()
        if not {"id", "modules"} <= fields <= FIELDS:
            raise Invalid("A base model is {id, modules, revision?, aliases?}.", detail={"fields": sorted(FIELDS)})
        base = register_base_model(
            request.data["id"],
            request.data["modules"],
            revision=request.data.get("revision") or "",
            aliases=request.data.get("aliases") or [],
        )
        return Response(base_model_json(base), status=201)


class BaseModelDetail(APIView):
    @extend_schema(operation_id="base_models_retrieve", responses={200: OBJECT, 404: ERROR})
    def get(self, request: Request, name: str) -> Response:
        base = find_base_model(name)
        if base is None:
            raise NotFound(f"The base model {name!r} is not known here. GET /base-models/ lists those that are.")
        return Response(base_model_json(base))
