"""A project without our addresses."""

urlpatterns: list[object] = []
