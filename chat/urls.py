from django.urls import path

from chat import views

urlpatterns = [
    path("", views.new_chat, name="new-chat"),
    path("c/<uuid:conversation>", views.conversation_page, name="conversation-page"),
    path("conversations", views.conversation_list, name="conversation-list"),
    path("conversations/<uuid:conversation>", views.conversation, name="conversation"),
    path("conversations/<uuid:conversation>/forks", views.forks, name="forks"),
    path("models", views.models, name="models"),
    path("generations/<uuid:generation>/events", views.events, name="generation-events"),
]
