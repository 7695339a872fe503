"""Functions on arrays, with PyTorch's names and arguments: what the layers compute, without their state."""

from jaxmodules.nn.functional import grad as grad
from jaxmodules.nn.functional.activation import celu as celu
from jaxmodules.nn.functional.activation import celu_ as celu_
from jaxmodules.nn.functional.activation import elu as elu
from jaxmodules.nn.functional.activation import elu_ as elu_
from jaxmodules.nn.functional.activation import hardshrink as hardshrink
from jaxmodules.nn.functional.activation import hardsigmoid as hardsigmoid
from jaxmodules.nn.functional.activation import hardswish as hardswish
from jaxmodules.nn.functional.activation import hardtanh as hardtanh
from jaxmodules.nn.functional.activation import hardtanh_ as hardtanh_
from jaxmodules.nn.functional.activation import leaky_relu as leaky_relu
from jaxmodules.nn.functional.activation import leaky_relu_ as leaky_relu_
from jaxmodules.nn.functional.activation import prelu as prelu
from jaxmodules.nn.functional.activation import relu as relu
from jaxmodules.nn.functional.activation import relu6 as relu6
from jaxmodules.nn.functional.activation import relu_ as relu_
from jaxmodules.nn.functional.activation import rrelu as rrelu
from jaxmodules.nn.functional.activation import rrelu_ as rrelu_
from jaxmodules.nn.functional.activation import selu as selu
from jaxmodules.nn.functional.activation import selu_ as selu_
from jaxmodules.nn.functional.activation import softshrink as softshrink
from jaxmodules.nn.functional.activation import threshold as threshold
from jaxmodules.nn.functional.activation import threshold_ as threshold_
from jaxmodules.nn.functional.activation_smooth import gelu as gelu
from jaxmodules.nn.functional.activation_smooth import glu as glu
from jaxmodules.nn.functional.activation_smooth import gumbel_softmax as gumbel_softmax
from jaxmodules.nn.functional.activation_smooth import log_softmax as log_softmax
from jaxmodules.nn.functional.activation_smooth import logsigmoid as logsigmoid
from jaxmodules.nn.functional.activation_smooth import mish as mish
from jaxmodules.nn.functional.activation_smooth import sigmoid as sigmoid
from jaxmodules.nn.functional.activation_smooth import silu as silu
from jaxmodules.nn.functional.activation_smooth import softmax as softmax
from jaxmodules.nn.functional.activation_smooth import softmin as softmin
from jaxmodules.nn.functional.activation_smooth import softplus as softplus
from jaxmodules.nn.functional.activation_smooth import softsign as softsign
from jaxmodules.nn.functional.activation_smooth import tanh as tanh
from jaxmodules.nn.functional.activation_smooth import tanhshrink as tanhshrink
from jaxmodules.nn.functional.attention import scaled_dot_product_attention as scaled_dot_product_attention
from jaxmodules.nn.functional.conv import conv1d as conv1d
from jaxmodules.nn.functional.conv import conv2d as conv2d
from jaxmodules.nn.functional.conv import conv3d as conv3d
from jaxmodules.nn.functional.conv import conv_tbc as conv_tbc
from jaxmodules.nn.functional.conv import conv_transpose1d as conv_transpose1d
from jaxmodules.nn.functional.conv import conv_transpose2d as conv_transpose2d
from jaxmodules.nn.functional.conv import conv_transpose3d as conv_transpose3d
from jaxmodules.nn.functional.distance import cosine_similarity as cosine_similarity
from jaxmodules.nn.functional.distance import normalize as normalize
from jaxmodules.nn.functional.distance import pairwise_distance as pairwise_distance
from jaxmodules.nn.functional.distance import pdist as pdist
from jaxmodules.nn.functional.dropout import alpha_dropout as alpha_dropout
from jaxmodules.nn.functional.dropout import dropout as dropout
from jaxmodules.nn.functional.dropout import dropout1d as dropout1d
from jaxmodules.nn.functional.dropout import dropout2d as dropout2d
from jaxmodules.nn.functional.dropout import dropout3d as dropout3d
from jaxmodules.nn.functional.dropout import feature_alpha_dropout as feature_alpha_dropout
from jaxmodules.nn.functional.embedding_bag import embedding_bag as embedding_bag
from jaxmodules.nn.functional.fold import fold as fold
from jaxmodules.nn.functional.fold import unfold as unfold
from jaxmodules.nn.functional.linear import bilinear as bilinear
from jaxmodules.nn.functional.linear import grouped_mm as grouped_mm
from jaxmodules.nn.functional.linear import linear as linear
from jaxmodules.nn.functional.loss import cross_entropy as cross_entropy
from jaxmodules.nn.functional.loss import nll_loss as nll_loss
from jaxmodules.nn.functional.loss_ctc import ctc_loss as ctc_loss
from jaxmodules.nn.functional.loss_linear import linear_cross_entropy as linear_cross_entropy
from jaxmodules.nn.functional.loss_margin import hinge_embedding_loss as hinge_embedding_loss
from jaxmodules.nn.functional.loss_margin import margin_ranking_loss as margin_ranking_loss
from jaxmodules.nn.functional.loss_margin import multi_margin_loss as multi_margin_loss
from jaxmodules.nn.functional.loss_margin import multilabel_margin_loss as multilabel_margin_loss
from jaxmodules.nn.functional.loss_margin import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from jaxmodules.nn.functional.loss_margin import soft_margin_loss as soft_margin_loss
from jaxmodules.nn.functional.loss_metric import cosine_embedding_loss as cosine_embedding_loss
from jaxmodules.nn.functional.loss_metric import triplet_margin_loss as triplet_margin_loss
from jaxmodules.nn.functional.loss_metric import triplet_margin_with_distance_loss as triplet_margin_with_distance_loss
from jaxmodules.nn.functional.loss_probability import binary_cross_entropy as binary_cross_entropy
from jaxmodules.nn.functional.loss_probability import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from jaxmodules.nn.functional.loss_probability import kl_div as kl_div
from jaxmodules.nn.functional.loss_regression import gaussian_nll_loss as gaussian_nll_loss
from jaxmodules.nn.functional.loss_regression import huber_loss as huber_loss
from jaxmodules.nn.functional.loss_regression import l1_loss as l1_loss
from jaxmodules.nn.functional.loss_regression import mse_loss as mse_loss
from jaxmodules.nn.functional.loss_regression import poisson_nll_loss as poisson_nll_loss
from jaxmodules.nn.functional.loss_regression import smooth_l1_loss as smooth_l1_loss
from jaxmodules.nn.functional.multihead import multi_head_attention_forward as multi_head_attention_forward
from jaxmodules.nn.functional.normalization import batch_norm as batch_norm
from jaxmodules.nn.functional.normalization import group_norm as group_norm
from jaxmodules.nn.functional.normalization import instance_norm as instance_norm
from jaxmodules.nn.functional.normalization import layer_norm as layer_norm
from jaxmodules.nn.functional.normalization import local_response_norm as local_response_norm
from jaxmodules.nn.functional.normalization import rms_norm as rms_norm
from jaxmodules.nn.functional.padding import pad as pad
from jaxmodules.nn.functional.pooling import max_pool1d as max_pool1d
from jaxmodules.nn.functional.pooling import max_pool1d_with_indices as max_pool1d_with_indices
from jaxmodules.nn.functional.pooling import max_pool2d as max_pool2d
from jaxmodules.nn.functional.pooling import max_pool2d_with_indices as max_pool2d_with_indices
from jaxmodules.nn.functional.pooling import max_pool3d as max_pool3d
from jaxmodules.nn.functional.pooling import max_pool3d_with_indices as max_pool3d_with_indices
from jaxmodules.nn.functional.pooling_adaptive import adaptive_avg_pool1d as adaptive_avg_pool1d
from jaxmodules.nn.functional.pooling_adaptive import adaptive_avg_pool2d as adaptive_avg_pool2d
from jaxmodules.nn.functional.pooling_adaptive import adaptive_avg_pool3d as adaptive_avg_pool3d
from jaxmodules.nn.functional.pooling_adaptive import adaptive_max_pool1d as adaptive_max_pool1d
from jaxmodules.nn.functional.pooling_adaptive import (
    adaptive_max_pool1d_with_indices as adaptive_max_pool1d_with_indices,
)
from jaxmodules.nn.functional.pooling_adaptive import adaptive_max_pool2d as adaptive_max_pool2d
from jaxmodules.nn.functional.pooling_adaptive import (
    adaptive_max_pool2d_with_indices as adaptive_max_pool2d_with_indices,
)
from jaxmodules.nn.functional.pooling_adaptive import adaptive_max_pool3d as adaptive_max_pool3d
from jaxmodules.nn.functional.pooling_adaptive import (
    adaptive_max_pool3d_with_indices as adaptive_max_pool3d_with_indices,
)
from jaxmodules.nn.functional.pooling_avg import avg_pool1d as avg_pool1d
from jaxmodules.nn.functional.pooling_avg import avg_pool2d as avg_pool2d
from jaxmodules.nn.functional.pooling_avg import avg_pool3d as avg_pool3d
from jaxmodules.nn.functional.pooling_avg import lp_pool1d as lp_pool1d
from jaxmodules.nn.functional.pooling_avg import lp_pool2d as lp_pool2d
from jaxmodules.nn.functional.pooling_avg import lp_pool3d as lp_pool3d
from jaxmodules.nn.functional.pooling_fractional import fractional_max_pool2d as fractional_max_pool2d
from jaxmodules.nn.functional.pooling_fractional import (
    fractional_max_pool2d_with_indices as fractional_max_pool2d_with_indices,
)
from jaxmodules.nn.functional.pooling_fractional import fractional_max_pool3d as fractional_max_pool3d
from jaxmodules.nn.functional.pooling_fractional import (
    fractional_max_pool3d_with_indices as fractional_max_pool3d_with_indices,
)
from jaxmodules.nn.functional.pooling_unpool import max_unpool1d as max_unpool1d
from jaxmodules.nn.functional.pooling_unpool import max_unpool2d as max_unpool2d
from jaxmodules.nn.functional.pooling_unpool import max_unpool3d as max_unpool3d
from jaxmodules.nn.functional.shuffle import channel_shuffle as channel_shuffle
from jaxmodules.nn.functional.shuffle import native_channel_shuffle as native_channel_shuffle
from jaxmodules.nn.functional.shuffle import pixel_shuffle as pixel_shuffle
from jaxmodules.nn.functional.shuffle import pixel_unshuffle as pixel_unshuffle
from jaxmodules.nn.functional.sparse import embedding as embedding
from jaxmodules.nn.functional.sparse import one_hot as one_hot
from jaxmodules.nn.functional.upsampling import interpolate as interpolate
from jaxmodules.nn.functional.upsampling import upsample as upsample
from jaxmodules.nn.functional.upsampling import upsample_bilinear as upsample_bilinear
from jaxmodules.nn.functional.upsampling import upsample_nearest as upsample_nearest
from jaxmodules.nn.functional.vision import affine_grid as affine_grid
from jaxmodules.nn.functional.vision import grid_sample as grid_sample
