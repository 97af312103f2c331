from django.urls import path

from chat import share_views, shared_views, views

urlpatterns = [
    path("", views.new_chat, name="new-chat"),
    path("c/<uuid:conversation>", views.conversation_page, name="conversation-page"),
    path("conversations", views.conversation_list, name="conversation-list"),
    path("conversations/<uuid:conversation>", views.conversation, name="conversation"),
    path("conversations/<uuid:conversation>/forks", views.forks, name="forks"),
    path("models", views.models, name="models"),
    path("generations/<uuid:generation>/events", views.events, name="generation-events"),
    path("conversations/<uuid:conversation>/share", share_views.share, name="share"),
    path("shares", share_views.share_list, name="share-list"),
    path("s/<str:token>", shared_views.page, name="shared"),
    path("s/<str:token>/card.png", shared_views.card, name="shared-card"),
    path("s/<str:token>/continue", shared_views.continue_shared, name="shared-continue"),
    path("s/<path:token>", shared_views.missing, name="shared-missing"),
]
